%% Asking ElixirScope from Erlang with less typing. It adds comfort, no power: each function is one
%% gen_server:call({elixir_scope, ScopeNode}, Request), which serves as well from a node without this module.
%%
%%   {ok, #{nodes := Nodes}} = elixir_scope:status(),
%%   {ok, #{id := Id}} = elixir_scope:start([{modules, [my_server]}, {for, {10, minute}}]),
%%   {ok, #{state := S}} = elixir_scope:get_state_at({my_server, node()}, {ago, 3, second}).
%%
%% ANSWERS   {ok, Value} | {error, {Code, #{field, got, hint}}}, never an exit: a daemon that is not there is
%%           {error, {not_running, ..}}, and {error, {no_scope_node, ..}} if it is not even known where to look.
%% WHERE     The daemon's node is the `scope` option, else the application's environment (elixir_scope, scope_node),
%%           else the only node called scope@* that this node knows (hidden ones included), else scope@ on this host.
%% OPTIONS   The last argument of every function, a map: scope => node(), timeout => milliseconds (default 6000; the
%%           daemon answers within 4000 by itself).
-module(elixir_scope).

-export([start/0, start/1, start/2, stop/0, stop/1, stop/2, status/0, status/1, is_running/0, is_running/1,
         hello/0, hello/1, clocks/0, clocks/1, update_config/2, update_config/3,
         get_events/1, get_events/2, get_state_at/2, get_state_at/3, get_state_history/2, get_state_history/3,
         get_state_diff/3, get_state_diff/4, get_message_flow/3, get_message_flow/4, aggregate/3, aggregate/4,
         get_traces/1, get_traces/2, get_trace/1, get_trace/2, get_order/2, get_order/3,
         subscribe/2, subscribe/3, demand/2, demand/3, unsubscribe/1, unsubscribe/2, request/2, scope_node/1]).
-export_type([options/0, answer/1, process/0, time/0, filter/0]).

-type options() :: #{scope => node(), timeout => timeout()}.
-type answer(Value) :: {ok, Value} | {error, {Code :: atom(), #{atom() => term()}}}.
-type process() :: pid() | {Name :: atom(), node()} | Text :: binary() | string().
-type time() :: integer() | now | {ago, number(), atom()} | {at, node(), integer()} | binary().
-type filter() :: [{atom(), term()}] | #{atom() => term()}.

%% Begins tracing; without options as the daemon's default profile has it, on every node.
-spec start() -> answer(map()).
start() -> start([]).
-spec start(filter()) -> answer(map()).
start(Opts) -> start(Opts, #{}).
-spec start(filter(), options()) -> answer(map()).
start(Opts, Options) -> request({start, Opts}, Options).

%% Ends one trace by its id, or all.
-spec stop() -> answer(term()).
stop() -> stop(all).
-spec stop(integer() | all) -> answer(term()).
stop(Id) -> stop(Id, #{}).
-spec stop(integer() | all, options()) -> answer(term()).
stop(Id, Options) -> request({stop, Id}, Options).

-spec status() -> answer(map()).
status() -> status(#{}).
-spec status(options()) -> answer(map()).
status(Options) -> request(status, Options).

-spec is_running() -> boolean().
is_running() -> is_running(#{}).
-spec is_running(options()) -> boolean().
is_running(Options) ->
    case hello(Options) of
        {ok, _} -> true;
        {error, _} -> false
    end.

-spec hello() -> answer(map()).
hello() -> hello(#{}).
-spec hello(options()) -> answer(map()).
hello(Options) -> request(hello, Options).

-spec clocks() -> answer(map()).
clocks() -> clocks(#{}).
-spec clocks(options()) -> answer(map()).
clocks(Options) -> request(clocks, Options).

%% A Path is the name of an option, or a list of names.
-spec update_config(atom() | [atom()], term()) -> answer(term()).
update_config(Path, Value) -> update_config(Path, Value, #{}).
-spec update_config(atom() | [atom()], term(), options()) -> answer(term()).
update_config(Path, Value, Options) -> request({update_config, Path, Value}, Options).

-spec get_events(filter()) -> answer(map()).
get_events(Filter) -> get_events(Filter, #{}).
-spec get_events(filter(), options()) -> answer(map()).
get_events(Filter, Options) -> request({get_events, Filter}, Options).

-spec get_state_at(process(), time()) -> answer(map()).
get_state_at(Process, Time) -> get_state_at(Process, Time, #{}).
-spec get_state_at(process(), time(), options()) -> answer(map()).
get_state_at(Process, Time, Options) -> request({get_state_at, Process, Time}, Options).

-spec get_state_history(process(), filter()) -> answer(map()).
get_state_history(Process, Filter) -> get_state_history(Process, Filter, #{}).
-spec get_state_history(process(), filter(), options()) -> answer(map()).
get_state_history(Process, Filter, Options) -> request({get_state_history, Process, Filter}, Options).

-spec get_state_diff(process(), time(), time()) -> answer(map()).
get_state_diff(Process, From, Until) -> get_state_diff(Process, From, Until, #{}).
-spec get_state_diff(process(), time(), time(), options()) -> answer(map()).
get_state_diff(Process, From, Until, Options) -> request({get_state_diff, Process, From, Until}, Options).

-spec get_message_flow(process(), process(), filter()) -> answer(map()).
get_message_flow(A, B, Filter) -> get_message_flow(A, B, Filter, #{}).
-spec get_message_flow(process(), process(), filter(), options()) -> answer(map()).
get_message_flow(A, B, Filter, Options) -> request({get_message_flow, A, B, Filter}, Options).

%% How many events, how long calls took (duration) or messages waited (queue_time), by group:
%%   aggregate([{module, my_cart}, {since, {ago, 1, minute}}], [mfa, {time, 10, second}], [count, {duration, [p50, p99]}])
-spec aggregate(filter(), term(), term()) -> answer(map()).
aggregate(Filter, GroupBy, Measures) -> aggregate(Filter, GroupBy, Measures, #{}).
-spec aggregate(filter(), term(), term(), options()) -> answer(map()).
aggregate(Filter, GroupBy, Measures, Options) -> request({aggregate, Filter, GroupBy, Measures}, Options).

%% Causal traces, newest first: get_traces([{since, {ago, 1, minute}}, {errors, true}]); then one of them by its id.
-spec get_traces(filter()) -> answer(map()).
get_traces(Filter) -> get_traces(Filter, #{}).
-spec get_traces(filter(), options()) -> answer(map()).
get_traces(Filter, Options) -> request({get_traces, Filter}, Options).

-spec get_trace(term()) -> answer(map()).
get_trace(Id) -> get_trace(Id, #{}).
-spec get_trace(term(), options()) -> answer(map()).
get_trace(Id, Options) -> request({get_trace, Id}, Options).

%% Which of two events, by their ids, came first: before, after, concurrent or unknown; why, by which chain of events.
-spec get_order(term(), term()) -> answer(map()).
get_order(A, B) -> get_order(A, B, #{}).
-spec get_order(term(), term(), options()) -> answer(map()).
get_order(A, B, Options) -> request({get_order, A, B}, Options).

%% Events come to the caller as {scope_events, Ref, [Event]}, never more than was demanded.
-spec subscribe(filter(), filter()) -> answer(term()).
subscribe(Filter, Opts) -> subscribe(Filter, Opts, #{}).
-spec subscribe(filter(), filter(), options()) -> answer(term()).
subscribe(Filter, Opts, Options) -> request({subscribe, Filter, Opts}, Options).

-spec demand(term(), pos_integer()) -> answer(term()).
demand(Ref, N) -> demand(Ref, N, #{}).
-spec demand(term(), pos_integer(), options()) -> answer(term()).
demand(Ref, N, Options) -> request({demand, Ref, N}, Options).

-spec unsubscribe(term()) -> answer(term()).
unsubscribe(Ref) -> unsubscribe(Ref, #{}).
-spec unsubscribe(term(), options()) -> answer(term()).
unsubscribe(Ref, Options) -> request({unsubscribe, Ref}, Options).

%% Any request of the daemon's, also one that this module does not know.
-spec request(term(), options()) -> answer(term()).
request(Request, Options) ->
    case scope_node(Options) of
        {ok, Node} -> call(Node, Request, maps:get(timeout, Options, 6000));
        {error, _} = Error -> Error
    end.

-spec scope_node(options()) -> answer(node()).
scope_node(#{scope := Node}) when is_atom(Node) -> {ok, Node};
scope_node(#{scope := Other}) ->
    {error, {bad_value, #{field => scope, got => Other, hint => <<"the daemon's node, such as 'scope@myhost'">>}}};
scope_node(_) ->
    case application:get_env(elixir_scope, scope_node) of
        {ok, Node} when is_atom(Node), Node =/= undefined -> {ok, Node};
        _ -> % a node that was once known may be long gone: those connected come first
            case lists:filter(fun is_scope/1, nodes(connected)) of
                [] -> found(lists:filter(fun is_scope/1, nodes(known)));
                Connected -> found(Connected)
            end
    end.

found([]) when node() =:= nonode@nohost ->
    {error, {no_scope_node, #{hint => <<"this node is not distributed: start it with a name and the cluster's cookie">>}}};
found([]) -> % a fresh node knows nobody: the usual place is the same host
    [_, Host] = string:split(atom_to_list(node()), "@"),
    {ok, list_to_atom("scope@" ++ Host)};
found([Node]) -> {ok, Node};
found(Several) -> {error, {no_scope_node, #{got => Several, hint => <<"several: say which by the option scope">>}}}.

is_scope(Node) -> lists:prefix("scope@", atom_to_list(Node)).

call(Node, Request, Timeout) ->
    try gen_server:call({elixir_scope, Node}, Request, Timeout)
    catch
        exit:{timeout, _} ->
            {error, {timeout, #{got => Node, hint => <<"no answer in time; the daemon's log may say why">>}}};
        exit:{Reason, _} ->
            {error, {not_running, #{got => Node, reason => Reason,
                                    hint => <<"no daemon answers there: scope start, and the same cookie here?">>}}}
    end.
