%% Redaction at the source, for the Erlang tracer and for what the agent's own processes tell; what is redacted, and how,
%% is at the top of erl/c_src/redact.h. And the rules themselves, for both tracers: what is asked for, checked and made ready.
%%
%% What is known of keys (atoms, short binaries) is kept in the process dictionary, at most ?MEMO of them.
-module(scope_redact).

-export([rules/1, changed/2, about/1]).
-export([found/3, hidden/3, noting/1, is_key/2, in_tuple/2, hide/2, of_fun/1, arguments/4, result/2, words/1]).
-export_type([rules/0, which/0]).

-define(MEMO, 10000).
-define(KEY_BYTES, 128).
-define(ALL, 16#FFFFFFFF).

%% off: nothing but users' own terms that look like our mark.
-type rules() :: #{on := boolean(), given := term(), version := non_neg_integer(), random := <<_:128>>,
                   words := [binary()], pattern := none | binary:cp(),
                   records := #{{atom(), arity()} => non_neg_integer()},
                   calls := [{module(), atom(), arity() | '_', non_neg_integer(), 0 | 1}], text := scope_text:table()}.
%% What of a term is hidden besides what it says itself: all; or, of a list of arguments, these (bit 0 the first).
-type which() :: none | all | {args, non_neg_integer()}.

%% A word, or `*part of one*`; several words are such in a row, however they are written: card_number, CardNumber.
-define(DEFAULT, ["*password*", "*passwd*", "*passphrase*", "*passcode*", "pwd", "pass", "pw",
                  "secret", "secrets", "token", "tokens", "jwt", "*authorization*",
                  "cookie", "cookies", "credential", "credentials", "*apikey*", "api key", "access key", "private key",
                  "encryption key", "signing key", "*cardnumber*", "card number", "credit card", "cc number",
                  "cvv", "cvc", "csc", "pin", "iban", "ssn"]).

%% From the daemon's word: off, or #{version, defaults => true, keys => [Text], records => [{Name, Arity, [Position]}],
%% calls => [{M, F | '_', A | '_', [Position], Result :: boolean()}], text => {Patterns, [Automaton of scope_text]} | none}; names as
%% text or atoms. Without a word, the defaults, and nothing of texts.
%% What is wrong in it counts as not said, but keys that cannot be words: those are hidden by what letters they have.
-spec rules(off | map() | term()) -> rules().
rules(off) -> (rules(#{defaults => false}))#{on := false, given := off};
rules(Given) when is_map(Given) ->
    Defaults = case Given of #{defaults := false} -> []; _ -> ?DEFAULT end,
    Words = lists:usort([W || K <- Defaults ++ list(keys, Given), W <- rule(K)]),
    #{on => true, given => Given, version => maps:get(version, Given, 0), random => scope_nif:random(), words => Words,
      pattern => case Words of [] -> none; _ -> binary:compile_pattern(Words) end,
      records => maps:from_list([{{name(N), A}, mask(P)} || {N, A, P} <- list(records, Given), is_integer(A)]),
      calls => [{name(M), name(F), arity(A), mask(P), case R of true -> 1; _ -> 0 end}
                || {M, F, A, P, R} <- list(calls, Given)],
      text => scope_text:table(maps:get(text, Given, none))};
rules(_) -> rules(#{}).

list(Key, Given) -> case Given of #{Key := L} when is_list(L) -> L; _ -> [] end.

name(A) when is_atom(A) -> A;
name(B) -> binary_to_atom(unicode:characters_to_binary(B), utf8).

arity(A) when is_integer(A) -> A;
arity(_) -> '_'.

mask(Positions) -> lists:foldl(fun(P, M) when P >= 1, P =< 32 -> M bor (1 bsl (P - 1)); (_, M) -> M end, 0, Positions).

rule(Key) ->
    Text = unicode:characters_to_binary(Key),
    Words = words(Text),
    Whole = not (binary:first(<<Text/binary, $_>>) =:= $* andalso binary:last(<<$_, Text/binary>>) =:= $*),
    Inner = string:trim(Words, both, " "),
    case << <<C>> || <<C>> <= Inner, C =:= $  orelse C >= $a andalso C =< $z >> of
        <<>> -> [];
        Rule when Whole -> [<<$ , Rule/binary, $ >>];
        Rule -> [Rule]
    end.

%% The rules from now on, in the tracer's process; the native one's library is told. Those that were, if it is the same word.
-spec changed(off | map() | term(), none | rules()) -> rules().
changed(Given, #{given := Given} = Same) -> Same;
changed(Given, _) ->
    Rules = rules(Given),
    _ = [erase(K) || {{?MODULE, _} = K, _} <- get()],
    _ = put(?MODULE, 0),
    _ = scope_nif:active() andalso (ok = install(native(Rules), 1000)),
    Rules.

install(Native, N) ->
    case scope_nif:set_redaction(Native) of
        busy when N > 0 -> receive after 1 -> install(Native, N - 1) end;
        busy -> {error, tracer_busy};
        Other -> Other
    end.

native(#{on := false}) -> none;
native(#{words := Words, records := Records, calls := Calls, given := Given}) ->
    {Words, [{N, A, M} || {{N, A}, M} <- maps:to_list(Records)], Calls, maps:get(text, Given, none)}.

%% For status: of what rules/1 takes.
-spec about(off | map() | term()) -> map().
about(Given = #{text := Text}) ->
    Patterns = case Text of {N, _} when is_integer(N) -> N; _ -> 0 end,
    (about(maps:remove(text, Given)))#{texts => Text =/= none, patterns => Patterns};
about(Given) ->
    case rules(Given) of
        #{on := false, version := V} -> #{redact => off, version => V};
        #{version := V, words := W, records := R, calls := C} ->
            #{redact => on, version => V, keys => length(W), records => map_size(R), calls => length(C)}
    end.

%% --- terms -----------------------------------------------------------------------------------------------------------

%% Is there something in it to hide? Nothing is made: most terms have nothing.
-spec found(term(), which(), rules()) -> boolean().
found(_, all, _) -> true;
found(T, {args, Which}, Rules) -> hits(T, Which) orelse each(T, Rules);
found(T, none, Rules) -> has(T, Rules).

each([H | T], Rules) -> has(H, Rules) orelse each(T, Rules);
each(T, Rules) -> has(T, Rules).

hits([_ | _], Which) when Which band 1 =:= 1 -> true;
hits([_ | T], Which) when Which > 1 -> hits(T, Which bsr 1);
hits(_, _) -> false.

has(T, Rules) when is_tuple(T) ->
    case in_tuple(T, Rules) of
        {0, 0} -> elements(T, 1, Rules);
        {all, _} -> true;
        {0, OfArgs} -> hits(element(3, T), OfArgs) orelse elements(T, 1, Rules);
        _ -> true
    end;
has(T = [_ | _], Rules = #{text := Text}) -> scope_text:list(T, Text) orelse each(T, Rules);
has(T, #{text := Text}) when is_binary(T) -> scope_text:secret(T, whole, Text);
has(T, Rules) when is_map(T) -> pairs(maps:next(maps:iterator(T)), Rules);
has(T, _) when is_function(T) -> erlang:fun_info(T, env) =/= {env, []};
has(T, _) when is_atom(T); is_number(T); is_pid(T); is_reference(T); is_port(T); T =:= []; is_bitstring(T) -> false;
has(_, #{on := On}) -> On.        % a native record (OTP 29), or what comes later: what is in it cannot be told

elements(T, I, _) when I > tuple_size(T) -> false;
elements(T, I, Rules) -> has(element(I, T), Rules) orelse elements(T, I + 1, Rules).

pairs(none, _) -> false;
pairs({K, V, Next}, Rules) -> is_key(K, Rules) orelse has(K, Rules) orelse has(V, Rules) orelse pairs(maps:next(Next), Rules).

%% The term with the marks in their places.
-spec hidden(term(), which(), {scope_cut:key(), rules()}) -> term().
hidden(T, all, S) -> hide(T, S);
hidden(T, {args, Which}, S) -> some(T, Which, S);
hidden(T, none, S) -> walk(T, S).

some([H | T], Which, S) when Which band 1 =:= 1 -> [hide(H, S) | some(T, Which bsr 1, S)];
some([H | T], Which, S) -> [walk(H, S) | some(T, Which bsr 1, S)];
some(T, _, S) -> walk(T, S).

items([H | T], S) -> [walk(H, S) | items(T, S)];
items(T, S) -> walk(T, S).

walk(T, S = {_, Rules}) when is_tuple(T) ->
    case in_tuple(T, Rules) of
        {all, _} -> hide(T, S);
        {Mask, OfArgs} -> list_to_tuple(walk(tuple_to_list(T), 1, Mask, OfArgs, S))
    end;
walk(T = [_ | _], S = {_, #{text := Text}}) ->
    case scope_text:list(T, Text) of
        true -> hide(T, S);
        false -> items(T, S)
    end;
walk(T, S = {_, #{text := Text}}) when is_binary(T) ->
    case scope_text:secret(T, whole, Text) of
        true -> hide(T, S);
        false -> T
    end;
walk(T, S = {_, Rules}) when is_map(T) ->
    maps:from_list([{walk(K, S), case is_key(K, Rules) of true -> hide(V, S); false -> walk(V, S) end}
                    || {K, V} <- maps:to_list(T)]);
walk(T, _) when is_function(T) -> of_fun(T);
walk(T, S = {_, #{on := true}}) when not (is_atom(T) orelse is_number(T) orelse is_pid(T) orelse is_reference(T) orelse
                                        is_port(T) orelse T =:= [] orelse is_bitstring(T)) -> hide(T, S);
walk(T, _) -> T.

walk([], _, _, _, _) -> [];
walk([E | Rest], I, Mask, OfArgs, S) ->
    [if Mask band 1 =:= 1 -> hide(E, S);
        I =:= 3, OfArgs > 0 -> some(E, OfArgs, S);
        true -> walk(E, S)
     end | walk(Rest, I + 1, Mask bsr 1, OfArgs, S)].

%% The mark.
-spec hide(term(), {scope_cut:key(), rules()}) -> {'$scope_redacted', non_neg_integer()}.
hide(T, {Key, Rules}) ->
    _ = put(scope_redacted, true),
    {'$scope_redacted', element(1, scope_hash:hash(T, key(Key, Rules)))}.

%% Its environment may be anything, so of a local fun that has one this is told, as if it had been cut.
-spec of_fun(fun()) -> fun() | {'fun', module(), arity()}.
of_fun(F) ->
    case erlang:fun_info(F, env) =/= {env, []} of
        true ->
            _ = put(scope_fun, true),
            {module, M} = erlang:fun_info(F, module),
            {arity, A} = erlang:fun_info(F, arity),
            {'fun', M, A};
        false -> F
    end.

%% What comes of it; whether something was hidden; whether there were funs.
-spec noting(fun(() -> T)) -> {T, boolean(), boolean()}.
noting(Make) ->
    _ = erase(scope_redacted),
    _ = erase(scope_fun),
    New = Make(),
    {New, erase(scope_redacted) =:= true, erase(scope_fun) =:= true}.

-spec key(scope_cut:key(), rules()) -> <<_:128>>.
key(none, #{random := Random}) -> Random;
key(Key, _) -> Key.

%% {The elements of such a tuple that are to be hidden, those of the list in its third}
-spec in_tuple(tuple(), rules()) -> {all | non_neg_integer(), non_neg_integer()}.
in_tuple({'$scope_redacted', _}, _) -> {all, 0};
in_tuple(_, #{on := false}) -> {0, 0};
in_tuple(T = {K, _}, Rules = #{records := Records}) ->
    {case is_key(K, Rules) of true -> 2; false -> 0 end bor record(T, Records), 0};
in_tuple(T = {M, F, A}, Rules = #{records := Records}) -> {record(T, Records), call(M, F, A, Rules)};
in_tuple(T = {M, F, A, _}, Rules = #{records := Records}) -> {record(T, Records), call(M, F, A, Rules)};
in_tuple(T, #{records := Records}) -> {record(T, Records), 0}.

record(_, Records) when map_size(Records) =:= 0 -> 0;
record(T, Records) when tuple_size(T) > 0 -> maps:get({element(1, T), tuple_size(T)}, Records, 0);
record(_, _) -> 0.

call(_, _, _, #{calls := []}) -> 0;
call(M, F, A = [_ | _], Rules) when is_atom(M), is_atom(F) -> arguments(M, F, A, Rules);
call(_, _, _, _) -> 0.

%% Those of the arguments, or of the result, that a rule hides.
-spec arguments(module(), atom(), term(), rules()) -> non_neg_integer().
arguments(M, F, A, Rules) ->
    N = try length(A) catch error:badarg -> -1 end,
    lists:foldl(fun({Mask, _}, Acc) -> Acc bor Mask end, 0, of_call(M, F, N, Rules)).

-spec result(mfa(), rules()) -> which().
result({M, F, N}, Rules) ->
    case [1 || {_, 1} <- of_call(M, F, N, Rules)] of
        [] -> none;
        _ -> all
    end.

of_call(M, F, N, #{calls := Calls}) ->
    [{Mask, Result} || {M1, F1, N1, Mask, Result} <- Calls, M1 =:= M, F1 =:= F orelse F1 =:= '_', N1 =:= N orelse N1 =:= '_'].

%% --- keys ------------------------------------------------------------------------------------------------------------

-spec is_key(term(), rules()) -> boolean().
is_key(_, #{pattern := none}) -> false;
is_key(K, Rules) when is_atom(K) -> remembered(K, Rules);
is_key(K, Rules) when is_binary(K), byte_size(K) =< 32 -> remembered(K, Rules);
is_key(K, Rules) when is_binary(K), byte_size(K) =< ?KEY_BYTES -> asked(K, Rules);
is_key([C | _] = K, Rules) when is_integer(C) ->
    case text(K, []) of
        no -> false;
        Text -> asked(Text, Rules)
    end;
is_key(_, _) -> false.

remembered(K, Rules) ->
    case get({?MODULE, K}) of
        undefined ->
            Is = asked(case is_atom(K) of true -> atom_to_binary(K, utf8); false -> K end, Rules),
            N = case get(?MODULE) of undefined -> 0; N0 -> N0 end,
            _ = N < ?MEMO andalso begin
                                      put({?MODULE, case is_binary(K) of true -> binary:copy(K); false -> K end}, Is),
                                      put(?MODULE, N + 1)
                                  end,
            Is;
        Known -> Known
    end.

asked(Text, #{pattern := Pattern}) -> binary:match(words(Text), Pattern) =/= nomatch.

text([], Acc) -> list_to_binary(lists:reverse(Acc));
text([C | T], Acc) when is_integer(C), C > 0, C =< 16#10FFFF, length(Acc) < ?KEY_BYTES -> text(T, [min(C, 255) | Acc]);
text(_, _) -> no.

%% The words of a key: lower case, a space before, between and after. Other letters than a-z are kept as they are.
-spec words(binary()) -> binary().
words(Text) -> words(Text, gap, <<" ">>).

words(<<>>, gap, Acc) -> Acc;
words(<<>>, _, Acc) -> <<Acc/binary, $ >>;
words(<<C, Rest/bits>>, _, Acc) when C >= $a, C =< $z -> words(Rest, lower, <<Acc/binary, C>>);
words(<<C, Rest/bits>>, Before, Acc) when C >= $A, C =< $Z ->
    Starts = Before =:= lower orelse (Before =:= upper andalso lower_follows(Rest)),
    case Starts of
        true -> words(Rest, upper, <<Acc/binary, $ , (C + 32)>>);
        false -> words(Rest, upper, <<Acc/binary, (C + 32)>>)
    end;
words(<<C, Rest/bits>>, _, Acc) when C >= 128 -> words(Rest, other, <<Acc/binary, C>>);
words(<<_, Rest/bits>>, gap, Acc) -> words(Rest, gap, Acc);
words(<<_, Rest/bits>>, _, Acc) -> words(Rest, gap, <<Acc/binary, $ >>).

lower_follows(<<C, _/bits>>) -> C >= $a andalso C =< $z;
lower_follows(<<>>) -> false.
