%% Random patterns and texts: the automaton that the daemon makes of a pattern (text_port.cc), run by scope_text, must find
%% what this BEAM's re finds in the text between two newlines. Of a text that is cut, what was found whole must be found or
%% be open before: a match that needs the bytes behind the cut is hidden once it has six bytes.
%% Usage: erl -noshell -pa DIR -s text_prop main PORT_PROGRAM [CASES [SEED]]
-module(text_prop).
-export([main/1]).

-spec main([atom()]) -> no_return().
main([Program]) -> main([Program, '2000']);
main([Program, Cases]) -> main([Program, Cases, list_to_atom(integer_to_list(erlang:system_time(microsecond) rem 1000000))]);
main([Program, Cases, Seed]) ->
    _ = rand:seed(exsss, int(Seed)),
    Port = open_port({spawn_executable, atom_to_list(Program)}, [{packet, 4}, binary, exit_status]),
    Tally = lists:foldl(fun(_, T) -> one(Port, T) end, #{failed => 0}, lists:seq(1, int(Cases))),
    io:format("seed ~s, ~s patterns: ~0p~n", [Seed, Cases, Tally]),
    %% A property that never finds, or always, shows nothing.
    Enough = lists:all(fun(K) -> maps:get(K, Tally, 0) >= int(Cases) div 4 end, [found, not_found]),
    halt(case Tally of #{failed := 0} when Enough -> 0; _ -> 1 end).

int(A) -> list_to_integer(atom_to_list(A)).

one(Port, Tally) ->
    Pattern = iolist_to_binary([piece(2) || _ <- lists:seq(1, 3 + rand:uniform(3))]),
    {ok, Re} = re:compile(Pattern, [caseless]),
    port_command(Port, Pattern),
    receive
        {Port, {data, Data}} ->
            case binary_to_term(Data) of
                error -> count(refused, Tally);             % it matches too little, or is too large
                #{text := Text} ->
                    Table = scope_text:table(Text),
                    lists:foldl(fun(_, T) -> held(Pattern, Re, Table, text(), T) end, Tally, lists:seq(1, 40))
            end;
        {Port, {exit_status, Status}} -> exit({died, Status})
    after 30000 -> exit(timeout)
    end.

held(Pattern, Re, Table, Text, Tally) ->
    Want = re:run(["\n", Text, "\n"], Re, [report_errors, {match_limit, 1000000}, {capture, first, index}]),
    Got = scope_text:secret(Text, whole, Table),
    case {Want, Got} of
        {nomatch, false} -> count(not_found, Tally);
        {{error, _}, _} -> count(gave_up, Tally);           % re goes back and forth, and not for ever
        {{match, [{At, Size}]}, true} -> count(found, cut(Pattern, Text, Table, At, Size, Tally));
        _ -> wrong(Pattern, Text, Want, Got, Tally)
    end.

%% One byte of the match is behind the cut; it begins with the newline in front, which is at 0.
cut(Pattern, Text, Table, At, Size, Tally) when Size >= 8, At + Size - 2 =< byte_size(Text) ->
    Head = binary:part(Text, 0, At + Size - 2),
    case scope_text:secret(Head, cut, Table) of
        true -> count(cut, Tally);
        false -> wrong(Pattern, Head, cut, false, Tally)
    end;
cut(_, _, _, _, _, Tally) -> Tally.

count(Key, Tally) -> maps:update_with(Key, fun(N) -> N + 1 end, 1, Tally).

wrong(Pattern, Text, Want, Got, Tally) ->
    io:format("~0p in ~0p: got ~p, re says ~0p~n", [Pattern, Text, Got, Want]),
    count(failed, Tally).

%% ---- patterns and texts of few letters, so that they often meet ----

piece(D) -> [atom(D), pick(["", "", "", "", "?", "*", "+", "{2}", "{1,3}", "{2,}"])].

atom(D) when D > 0 ->
    case rand:uniform(6) of
        1 -> ["(?:", piece(D - 1), piece(D - 1), ")"];
        2 -> ["(", piece(D - 1), "|", piece(D - 1), ")"];
        _ -> atom(0)
    end;
atom(0) ->
    pick(["a", "b", "A", "1", "-", " ", "\\.", ".", "\\d", "\\w", "\\s", "\\S", "\\W", "[ab]", "[^a]", "[a-c1]", "[^\\s1]", "[]a]",
          "\\n", "[0-9-]", "=", "[^a-z0-9]"]).

text() -> list_to_binary([pick("aabbABc11-. =\n") || _ <- lists:seq(1, rand:uniform(24) - 1)]).

pick(L) -> lists:nth(rand:uniform(length(L)), L).
