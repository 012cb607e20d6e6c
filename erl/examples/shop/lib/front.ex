defmodule Shop.Customers do
  @moduledoc "Sends customers in at a steady rate, each a task of its own; never more than 100 at once."
  use GenServer
  @most 100

  def start_link(rate), do: GenServer.start_link(__MODULE__, rate, name: __MODULE__)

  @doc "Changes the rate (requests per second; 0 pauses)."
  def rate(per_second), do: GenServer.cast(__MODULE__, {:rate, per_second |> max(0) |> min(500)})

  @impl true
  def init(rate) do
    Shop.counter(__MODULE__)
    {:ok, tick(%{seq: 0, last: 0, rate: rate, next: 0, turned_away: 0, due: now()})}
  end

  @impl true
  def handle_cast({:rate, rate}, state) do
    state = Shop.handled(%{state | rate: rate, due: now()}, __MODULE__, state.next)
    {:noreply, if(state.rate > 0, do: tick(state), else: state)}
  end

  @impl true
  def handle_info({:tick, due}, %{due: due, rate: rate} = state) when rate > 0 do
    number = state.next + 1
    state = Shop.handled(%{state | next: number}, __MODULE__, number)

    state =
      if length(Task.Supervisor.children(Shop.Visits)) < @most do
        {:ok, _} = Task.Supervisor.start_child(Shop.Visits, __MODULE__, :visit, [number])
        state
      else
        %{state | turned_away: state.turned_away + 1}
      end

    {:noreply, tick(state)}
  end

  def handle_info(_old_tick, state), do: {:noreply, state}

  @doc false
  def visit(number) do
    item = Enum.at([:apple, :bread, :cheese, :coffee], rem(number, 4))
    GenServer.call(Shop.Front, {:buy, number, item, 1 + rem(number, 3)}, 8_000)
  catch
    :exit, _ -> :gave_up
  end

  # The next request is due at a fixed distance from the last one, however long this one took; after a pause the lost
  # time is not made up for.
  defp tick(%{rate: 0} = state), do: state

  defp tick(state) do
    due = max(state.due + div(1_000_000, state.rate), now() - 100_000)
    Process.send_after(self(), {:tick, due}, max(0, div(due - now(), 1000)))
    %{state | due: due}
  end

  defp now, do: System.monotonic_time(:microsecond)
end

defmodule Shop.Front do
  @moduledoc "Takes a customer's order, hands it to Orders on another node, answers when that reports the outcome."
  use GenServer
  @most 200
  @patience_ms 6_000

  def start_link(_), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @impl true
  def init(nil) do
    Shop.counter(__MODULE__)
    {:ok, %{seq: 0, last: 0, open: %{}, outcomes: %{}}}
  end

  @impl true
  def handle_call({:buy, number, item, quantity}, from, state) do
    state = Shop.handled(state, __MODULE__, number)

    if map_size(state.open) < @most do
      GenServer.cast({Shop.Orders, Shop.at(:orders)}, {:place, number, item, quantity, self()})
      timer = Process.send_after(self(), {:too_late, number}, @patience_ms)
      {:noreply, put_in(state.open[number], {from, timer})}
    else
      {:reply, {:error, :busy}, count(state, :busy)}
    end
  end

  @impl true
  def handle_cast({:done, number, outcome}, state), do: {:noreply, close(state, number, outcome)}

  @impl true
  def handle_info({:too_late, number}, state), do: {:noreply, close(state, number, :too_late)}

  defp close(state, number, outcome) do
    state = Shop.handled(state, __MODULE__, number)

    case pop_in(state.open[number]) do
      {{from, timer}, state} ->
        Process.cancel_timer(timer)
        GenServer.reply(from, outcome)
        count(state, outcome)

      {nil, state} ->
        state
    end
  end

  defp count(state, outcome), do: update_in(state.outcomes[outcome], &((&1 || 0) + 1))
end
