%% A gen_server for tests, with an oracle of its own: every state it ever had, with the time.
%%
%%   {add, K} (call or cast)   n grows by K, seq by one            {seq, K} (info)   seq must be K - 1
%%   {relay, To, Msg} (cast)   sends Msg to To                     history (call)    [{MonotonicNs, State}], oldest first
%%   crash (cast)              exits                               {bulk, Term}      keeps Term in its state
%% The history is kept in an ets table, not in the state that is compared.
-module(scope_counter).
-behaviour(gen_server).
-export([start/1, start_link/1, history/1, pump/4]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

start(Name) -> gen_server:start({local, Name}, ?MODULE, Name, []).
start_link(Name) -> gen_server:start_link({local, Name}, ?MODULE, Name, []).

history(Name) ->
    lists:sort(ets:tab2list(Name)).

init(Name) ->
    Name = ets:new(Name, [named_table, public, ordered_set]),
    {ok, kept(#{name => Name, n => 0, seq => 0, last => none})}.

handle_call({add, K}, _From, S = #{n := N, seq := Q}) ->
    S1 = kept(S#{n := N + K, seq := Q + 1, last := {add, K}}),
    {reply, N + K, S1};
handle_call(get, _From, S) ->
    {reply, S, S};
handle_call({bulk, Term}, _From, S) ->
    {reply, ok, kept(S#{bulk => Term})}.

handle_cast({add, K}, S = #{n := N, seq := Q}) -> {noreply, kept(S#{n := N + K, seq := Q + 1, last := {add, K}})};
handle_cast({relay, To, Msg}, S = #{seq := Q}) ->
    gen_server:cast(To, Msg),
    {noreply, kept(S#{seq := Q + 1, last := relay})};
handle_cast(crash, _S) -> exit(asked_to_crash).

handle_info({seq, K, _}, S) -> handle_info({seq, K}, S);
handle_info({seq, K}, S = #{seq := Q}) ->
    K = Q + 1,
    {noreply, S#{seq := K}}.

kept(S = #{name := Name}) ->
    true = ets:insert(Name, {{erlang:monotonic_time(nanosecond), erlang:unique_integer([monotonic])}, S}),
    S.

%% Sends {seq, From}, ..., {seq, To} to the process at `Rate` a second, in steps of 5 ms. Returns the last sent.
pump(Pid, From, To, Rate) ->
    pump(Pid, From, From, To, Rate, erlang:monotonic_time(microsecond)).

pump(Pid, First, Next, To, Rate, Begun) when Next =< To ->
    Due = First + (erlang:monotonic_time(microsecond) - Begun) * Rate div 1000000,
    Last = min(Due, To),
    [Pid ! {seq, K} || K <- lists:seq(Next, Last)],
    receive after 5 -> ok end,
    pump(Pid, First, max(Next, Last + 1), To, Rate, Begun);
pump(_, _, _, To, _, _) -> To.
