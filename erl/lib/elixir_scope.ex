defmodule ElixirScope do
  @moduledoc """
  Asking ElixirScope, the flight recorder of a live cluster, from Elixir with less typing.

  It adds comfort, no power: each function is one `GenServer.call({:elixir_scope, scope_node}, request)`, which serves
  as well from a node that has no module of ElixirScope.

      iex> ElixirScope.start(modules: [MyApp.Cart], names: [MyApp.Cart], for: {10, :minute})
      {:ok, %{id: 1, nodes: %{"shop@host": :ok}, expires: 1700000600000000000}}
      iex> ElixirScope.get_state_at!({MyApp.Cart, :shop@host}, {:ago, 3, :second}).state
      %{items: [:apple]}
      iex> ElixirScope.get_events!(type: :message_send, limit: 2).events
      [#ElixirScope.Event<message_send ...>, ...]

  ## Answers

  `{:ok, value}` or `{:error, {code, %{field: _, got: _, hint: _}}}`, never an exit: a daemon that is not there is
  `{:error, {:not_running, _}}`. The forms with `!` give the value alone or raise `ElixirScope.Error`. Events are
  `ElixirScope.Event` structs. Every answer over events says in `completeness` what is missing from it.

  ## Arguments

  A process is a pid, `{name, node}`, a name of this node (an atom), or the text `"<0.123.0>"`. A time is a `DateTime`,
  nanoseconds of cluster time, `:now`, `{:ago, 3, :second}`, `{:at, node, system_ns}` or an ISO 8601 text. A filter is
  a keyword list or map of `:pid`, `:node`, `:type`, `:mfa`, `:module`, `:peer`, `:since`, `:until`, `:limit`,
  `:order`, `:cursor` ...; the daemon names the nearest key if one is wrong.

  ## Where the daemon is

  The option `:scope` (in the filter or the options of any function), else
  `config :elixir_scope, scope_node: :"scope@host"`, else the only node called `scope@*` that this one knows (hidden
  ones included), else `scope@` on this node's own host. The option `:timeout` is in milliseconds (6000; the daemon
  answers within 4000 by itself, in part if need be).
  """

  alias ElixirScope.{Error, Event}

  @type answer(value) :: {:ok, value} | {:error, {code :: atom, %{optional(atom) => term}}}
  @type process :: pid | atom | {atom, node} | String.t()
  @type time ::
          DateTime.t() | integer | :now | {:ago, number, atom} | {:at, node, integer} | String.t()
  @type filter :: keyword | map

  @doc """
  Begins tracing: `:profile`, `:nodes`, `:modules`, `:mfas`, `:pids`, `:names`, `:events`, `:sample`, `:budget`, `:for`.
  Without any, as the daemon's default profile has it. Answers `%{id: _, nodes: _, expires: _}`.
  """
  @spec start(filter) :: answer(map)
  def start(opts \\ []), do: ask(opts, &{:start, &1})

  @doc "Ends the trace of that id, or all."
  @spec stop(integer | :all, keyword) :: answer(term)
  def stop(id \\ :all, opts \\ []), do: ask(opts, fn _ -> {:stop, id} end)

  @doc "The daemon, its nodes, its store and what is being traced."
  @spec status(keyword) :: answer(map)
  def status(opts \\ []), do: ask(opts, fn _ -> :status end)

  @doc """
  Does a daemon answer?

      iex> ElixirScope.running?(scope: :"scope@nowhere.invalid")
      false
  """
  @spec running?(keyword) :: boolean
  def running?(opts \\ []), do: match?({:ok, _}, ask(opts, fn _ -> :hello end))

  @doc "Changes one option of the daemon while it runs; a path is a name or a list of names."
  @spec update_config(atom | [atom], term, keyword) :: answer(term)
  def update_config(path, value, opts \\ []),
    do: ask(opts, fn _ -> {:update_config, path, value} end)

  @doc "Events that match: `%{events: [%ElixirScope.Event{}], next: cursor | :none, completeness: _}`."
  @spec get_events(filter) :: answer(map)
  def get_events(filter \\ []) do
    with {:ok, %{events: events} = page} <- ask(filter, &{:get_events, times(&1)}) do
      {:ok, %{page | events: Enum.map(events, &Event.new/1)}}
    end
  end

  @doc "The state of a process at a time, and how certain that is."
  @spec get_state_at(process, time, keyword) :: answer(map)
  def get_state_at(process, time \\ :now, opts \\ []) do
    ask(opts, fn _ -> {:get_state_at, process(process), time(time)} end)
  end

  @doc "The transitions of a process's state, each with its cause and what it changed."
  @spec get_state_history(process, filter) :: answer(map)
  def get_state_history(process, filter \\ []) do
    ask(filter, &{:get_state_history, process(process), times(&1)})
  end

  @doc "What was added, removed and changed in a process's state between two times."
  @spec get_state_diff(process, time, time, keyword) :: answer(map)
  def get_state_diff(process, from, until, opts \\ []) do
    ask(opts, fn _ -> {:get_state_diff, process(process), time(from), time(until)} end)
  end

  @doc "The messages between two processes, both ways, each with its times."
  @spec get_message_flow(process, process, filter) :: answer(map)
  def get_message_flow(a, b, filter \\ []) do
    ask(filter, &{:get_message_flow, process(a), process(b), times(&1)})
  end

  @doc """
  How many events match, how long calls took (`:duration`) or messages waited (`:queue_time`), by group.

      ElixirScope.aggregate([module: MyApp.Cart, since: {:ago, 1, :minute}], [:mfa], [:count, duration: [:p50, :p99]])
  """
  @spec aggregate(filter, term, term) :: answer(map)
  def aggregate(filter, group_by \\ [], measures \\ [:count]) do
    ask(filter, &{:aggregate, times(&1), group_by, measures})
  end

  @doc """
  Causal traces, newest first: what was caused by what over processes and nodes. Each has the `id` that `get_trace/2` takes.

      ElixirScope.get_traces(since: {:ago, 1, :minute}, errors: true)
  """
  @spec get_traces(filter) :: answer(map)
  def get_traces(filter \\ []), do: ask(filter, &{:get_traces, times(&1)})

  @doc "One causal trace as a tree of spans."
  @spec get_trace(term, keyword) :: answer(map)
  def get_trace(id, opts \\ []), do: ask(opts, fn _ -> {:get_trace, id} end)

  @doc """
  Which of two events came first, by their ids: `order` is `:before`, `:after`, `:concurrent` or `:unknown`, with how that
  is known.
  """
  @spec get_order(term, term, keyword) :: answer(map)
  def get_order(a, b, opts \\ []), do: ask(opts, fn _ -> {:get_order, a, b} end)

  @doc """
  Events as they are recorded: `{:scope_events, ref, [event]}` messages to the caller, never more than was demanded
  (`demand/2`). `ElixirScope.Event.new/1` makes structs of them.
  """
  @spec subscribe(filter, keyword) :: answer(term)
  def subscribe(filter \\ [], opts \\ []) do
    ask(opts, &{:subscribe, times(filter), &1})
  end

  @doc "Allows `n` more events of a subscription."
  @spec demand(term, pos_integer, keyword) :: answer(term)
  def demand(ref, n, opts \\ []), do: ask(opts, fn _ -> {:demand, ref, n} end)

  @doc "Ends a subscription."
  @spec unsubscribe(term, keyword) :: answer(term)
  def unsubscribe(ref, opts \\ []), do: ask(opts, fn _ -> {:unsubscribe, ref} end)

  # The same names with `!`: the value, or a raised ElixirScope.Error.
  for {name, arities} <- [
        start: 0..1,
        stop: 0..2,
        status: 0..1,
        update_config: 2..3,
        get_events: 0..1,
        get_state_at: 1..3,
        get_state_history: 1..2,
        get_state_diff: 3..4,
        get_message_flow: 2..3,
        aggregate: 1..3,
        get_traces: 0..1,
        get_trace: 1..2,
        get_order: 2..3,
        subscribe: 0..2,
        demand: 2..3,
        unsubscribe: 1..2
      ],
      arity <- arities do
    args = Macro.generate_arguments(arity, __MODULE__)
    @doc "`#{name}/#{arity}`, but gives the value alone or raises `ElixirScope.Error`."
    def unquote(:"#{name}!")(unquote_splicing(args)),
      do: bang(unquote(name)(unquote_splicing(args)))
  end

  defp bang({:ok, value}), do: value
  defp bang({:error, {code, info}}), do: raise(Error, code: code, info: info)

  # Takes what is ours (:scope, :timeout) out of the options and sends the rest.
  defp ask(opts, request) do
    {ours, theirs} =
      if is_map(opts),
        do: Map.split(opts, [:scope, :timeout]),
        else: Keyword.split(opts, [:scope, :timeout])

    :elixir_scope.request(request.(theirs), Map.new(ours))
  end

  defp process(name) when is_atom(name), do: {name, node()}
  defp process(other), do: other

  defp times(filter) do
    Enum.reduce([:since, :until], filter, fn key, filter ->
      if value = filter[key], do: put(filter, key, time(value)), else: filter
    end)
  end

  defp put(filter, key, value) when is_map(filter), do: Map.put(filter, key, value)
  defp put(filter, key, value), do: Keyword.put(filter, key, value)

  defp time(%DateTime{} = time), do: DateTime.to_unix(time, :nanosecond)
  defp time(other), do: other
end

defmodule ElixirScope.Error do
  @moduledoc "Raised by the functions with `!`: `code` and `info` as in `{:error, {code, info}}`."
  defexception [:code, :info]

  @impl true
  @doc """
      iex> Exception.message(%ElixirScope.Error{code: :unknown_key, info: %{field: :typ, hint: "did you mean type?"}})
      "unknown_key: did you mean type? (field :typ)"
  """
  def message(%{code: code, info: info}) do
    details =
      for key <- [:field, :got], Map.has_key?(info, key), do: "#{key} #{inspect(info[key])}"

    hint = if info[:hint], do: ": #{info.hint}", else: ""
    "#{code}#{hint}" <> if(details == [], do: "", else: " (#{Enum.join(details, ", ")})")
  end
end

defmodule ElixirScope.Event do
  @moduledoc """
  One recorded event. What every event has are fields; what belongs to its type is in `data`, and can be read as
  `event[:message]` too. `time` is nanoseconds of cluster time, uncertain by `time_error`.
  """
  @behaviour Access
  defstruct [:id, :node, :pid, :type, :time, :time_error, data: %{}]

  @type t :: %__MODULE__{
          id: term,
          node: node,
          pid: pid | term,
          type: atom,
          time: integer,
          time_error: integer | :unknown,
          data: map
        }
  @common [:id, :node, :pid, :type, :time, :time_error]

  @doc """
  Makes a struct of an event as the daemon sends it.

      iex> event = ElixirScope.Event.new(%{id: "x", node: :a@h, pid: self(), type: :process_exit, time: 1, time_error: 0, reason: :normal})
      iex> {event.type, event[:reason], event.data}
      {:process_exit, :normal, %{reason: :normal}}
  """
  @spec new(map) :: t
  def new(map) do
    {common, data} = Map.split(map, @common)
    struct!(%__MODULE__{data: data}, common)
  end

  @doc """
  The event's time as a `DateTime`.

      iex> ElixirScope.Event.at(%ElixirScope.Event{time: 1_700_000_000_000_000_000})
      ~U[2023-11-14 22:13:20.000000Z]
  """
  @spec at(t) :: DateTime.t()
  def at(%__MODULE__{time: ns}), do: DateTime.from_unix!(div(ns, 1000), :microsecond)

  @impl Access
  def fetch(event, key) when key in @common, do: Map.fetch(event, key)
  def fetch(event, key), do: Map.fetch(event.data, key)

  @impl Access
  def get_and_update(event, key, fun) when key in @common, do: Map.get_and_update(event, key, fun)

  def get_and_update(event, key, fun) do
    {got, data} = Map.get_and_update(event.data, key, fun)
    {got, %{event | data: data}}
  end

  @impl Access
  def pop(event, key) when key not in @common do
    {got, data} = Map.pop(event.data, key)
    {got, %{event | data: data}}
  end

  defimpl Inspect do
    import Inspect.Algebra

    def inspect(event, opts) do
      time = if is_integer(event.time), do: " " <> time(event), else: ""
      where = if event.node, do: " #{event.node}", else: ""
      pid = if event.pid, do: [" ", to_doc(event.pid, opts)], else: []
      head = concat(["#ElixirScope.Event<#{event.type}#{time}#{where}" | pid])

      data =
        for {key, value} <- Enum.sort(event.data), do: concat(["#{key}: ", to_doc(value, opts)])

      group(concat([nest(concat([head | Enum.map(data, &concat(break(" "), &1))]), 2), ">"]))
    end

    defp time(event) do
      at = event |> ElixirScope.Event.at() |> DateTime.to_time() |> Time.to_iso8601()
      error = event.time_error
      if is_integer(error) and error > 0, do: "#{at}±#{Float.round(error / 1000, 1)}µs", else: at
    end
  end
end
