%% The `scope` command line, run as people run it: its exit status and lines. The cookie is what `cookie` wrote into the suite's home.
-module(scope_cli).
-export([cookie/1, scope/2, scope/3, on_terminal/3, uncoloured/1, has/2]).

-spec cookie(scope_test:config()) -> scope_test:config().
cookie(Config = #{tmp := Tmp, cookie := Cookie}) ->
    File = filename:join(Tmp, ".erlang.cookie"),
    ok = file:write_file(File, Cookie),
    ok = file:change_mode(File, 8#400),
    Config.

-spec scope(scope_test:config(), [string()]) -> {non_neg_integer(), [binary()]}.
scope(Config, Args) -> scope(Config, Args, []).

-spec scope(scope_test:config(), [string()], [{string(), string() | false}]) -> {non_neg_integer(), [binary()]}.
scope(Config, Args, Env) ->
    P = scope_test:start_program(Config, exe(), Args, [{"TZ", "UTC"}, {"SCOPE_NODE", false}, {"SCOPE_SYNTAX", false} | Env]),
    collect(scope_test:os_pid(P), []).

%% Under script(1), which gives it a terminal.
-spec on_terminal(scope_test:config(), [string()], [{string(), string() | false}]) -> {non_neg_integer(), [binary()]}.
on_terminal(Config, Args, Env) ->
    P = scope_test:start_program(Config, "/usr/bin/script", ["-qec", lists:flatten(lists:join(" ", [exe() | Args])), "/dev/null"],
                                 [{"TZ", "UTC"}, {"TERM", "xterm"}, {"NO_COLOR", false} | Env]),
    {Status, Lines} = collect(scope_test:os_pid(P), []),
    {Status, [re:replace(L, "\r", "", [global, {return, binary}]) || L <- Lines]}.

-spec uncoloured([binary()]) -> [binary()].
uncoloured(Lines) -> [re:replace(L, "\e\\[[0-9]*m", "", [global, unicode, {return, binary}]) || L <- Lines].

exe() ->
    case os:find_executable("scope", os:getenv("SCOPE_BIN", "")) of
        false -> filename:join([os:getenv("SCOPE_BUILD", "build/dev"), "bin", "scope"]);
        Exe -> Exe
    end.

collect(OsPid, Lines) ->
    receive
        {line, OsPid, Line} -> collect(OsPid, [Line | Lines]);
        {exited, OsPid, Status} -> {Status, lists:reverse(Lines)}
    after 20000 -> error({still_running, lists:reverse(Lines)})
    end.

-spec has([binary()], iodata()) -> ok.
has(Lines, Regex) ->
    Text = lists:join($\n, Lines),
    case re:run(Text, Regex, [multiline, unicode]) of
        {match, _} -> ok;
        nomatch -> error({not_there, Regex, iolist_to_binary(Text)})
    end.
