%% The VM's trace functions. From OTP 27 on ours work in a trace session of our own: what another tool sets is not ours to
%% see, what we set is not its to wipe, and all of it goes with the session. Up to OTP 26 there is one for everybody.
%%
%% The supervisor opens it, with the tracer that it is for, and holds it: when the supervisor is gone, so is the session.
%% The others get its weak handle with their peers, and say once that they work in it (use/1). A session that is gone
%% answers like a node where nothing is traced: who works in it will hear why.
-module(scope_session).

-export([there_are/0, open/1, weak/1, use/1, used/0, stands/0, close/1, close_all/0, process/3, function/3, info/2]).
-export_type([session/0]).

-define(NAME, elixir_scope).

-type session() :: none | {reference(), {atom(), integer()}} | {atom(), integer() | none}.

-spec there_are() -> boolean().
there_are() -> list_to_integer(erlang:system_info(otp_release)) >= 27.

%% Where all events go: a process, or a tracer module with its state.
-spec open(pid() | {module(), term()}) -> session().
open(Tracer) ->
    case there_are() of
        true -> trace(session_create, [?NAME, Tracer, []]);
        false -> none
    end.

-spec weak(session()) -> session().
weak({Strong, Weak}) when is_reference(Strong) -> Weak;
weak(Other) -> Other.

-spec use(session()) -> ok.
use(Session) ->
    _ = put(?MODULE, Session),
    ok.

-spec used() -> session().
used() ->
    case get(?MODULE) of
        undefined -> case there_are() of true -> {?NAME, none}; false -> none end;   % never everybody's, there
        Session -> Session
    end.

-spec close(session()) -> ok.
close(none) -> ok;
close(Session) ->
    _ = (catch trace(session_destroy, [Session])),
    ok.

%% Is it there still? A new tracer has a new one.
-spec stands() -> boolean().
stands() ->
    case used() of
        none -> true;
        Session -> lists:member(Session, trace(session_info, [all]))
    end.

%% Ours, whoever opened them; nothing where there are none.
-spec close_all() -> ok.
close_all() -> lists:foreach(fun close/1, [S || there_are(), S = {?NAME, _} <- trace(session_info, [all])]).

%% As erlang:trace/3, with a tracer among the flags, which a session needs not be told. In a session 0 where that raises.
-spec process(pid() | all | new_processes, boolean(), list()) -> non_neg_integer().
process(Who, On, Flags) ->
    case used() of
        none -> erlang:trace(Who, On, Flags);
        Session ->
            try trace(process, [Session, case Who of new_processes -> new; _ -> Who end, On,
                                [F || F <- Flags, not is_tuple(F)]])
            catch error:badarg -> 0
            end
    end.

-spec function({module(), atom(), arity() | '_'}, list() | boolean(), list()) -> non_neg_integer().
function(MFA, MatchSpec, Kind) ->
    case used() of
        none -> erlang:trace_pattern(MFA, MatchSpec, Kind);
        Session -> try trace(function, [Session, MFA, MatchSpec, Kind]) catch error:badarg -> 0 end
    end.

-spec info(pid() | new_processes | mfa() | send | 'receive', atom()) -> {atom(), term()} | undefined.
info(What, Item) ->
    case used() of
        none -> told(erlang:trace_info(What, Item));
        Session -> try told(trace(info, [Session, What, Item])) catch error:badarg -> undefined end
    end.

told({tracer, Module, State}) -> {tracer, {Module, State}};
told(Told) -> Told.

%% Of the module `trace`, which OTP 25, with which this is compiled, does not have.
trace(Function, Args) -> apply(trace, Function, Args).
