defmodule Shop.Stock do
  @moduledoc "What is on the shelves. Restocks itself (a `continue`) when a shelf runs low."
  use GenServer
  @prices %{apple: 45, bread: 320, cheese: 870, coffee: 650}

  def start_link(_), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @impl true
  def init(nil) do
    Shop.counter(__MODULE__)

    {:ok,
     %{seq: 0, last: 0, shelves: Map.new(@prices, fn {item, _} -> {item, 40} end), restocked: 0}}
  end

  @impl true
  def handle_call({:reserve, number, item, quantity}, _from, state) do
    state = Shop.handled(state, __MODULE__, number)

    case state.shelves do
      %{^item => n} when n >= quantity ->
        {:reply, {:ok, @prices[item] * quantity}, put_in(state.shelves[item], n - quantity)}

      %{^item => _} ->
        {:reply, {:error, :sold_out}, state, {:continue, {:restock, item}}}
    end
  end

  @impl true
  def handle_cast({:release, number, item, quantity}, state) do
    {:noreply, update_in(Shop.handled(state, __MODULE__, number).shelves[item], &(&1 + quantity))}
  end

  @impl true
  def handle_continue({:restock, item}, state) do
    {:noreply, %{put_in(state.shelves[item], 40) | restocked: state.restocked + 1}}
  end
end

defmodule Shop.Payment do
  @moduledoc "Charges in a task of its own (the bank takes 1 to 10 ms), which answers the caller; 1 in 25 is declined."
  use GenServer

  def start_link(_), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @impl true
  def init(nil) do
    Shop.counter(__MODULE__)
    {:ok, %{seq: 0, last: 0, cents: 0}}
  end

  @impl true
  def handle_call({:charge, number, cents}, from, state) do
    {:ok, _} = Task.Supervisor.start_child(Shop.Bank, __MODULE__, :charge, [number, cents, from])
    {:noreply, Shop.handled(%{state | cents: state.cents + cents}, __MODULE__, number)}
  end

  @doc false
  def charge(number, cents, from) do
    Process.sleep(1 + rem(number * 7, 10))

    if rem(number, 25) == 0 do
      GenServer.reply(from, {:error, :declined})
    else
      Agent.update(Shop.Till, &(&1 + cents))
      GenServer.reply(from, :ok)
    end
  end
end

defmodule Shop.Till do
  @moduledoc "The money taken, in cents: an Agent."
  use Agent
  def start_link(_), do: Agent.start_link(fn -> 0 end, name: __MODULE__)
end

defmodule Shop.Courier do
  @moduledoc "Ships parcels; the van breaks down at every 97th, and the supervisor sends another (with `seq` at 0 again)."
  use GenServer

  def start_link(_), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @impl true
  def init(nil) do
    Shop.counter(__MODULE__)
    {:ok, %{seq: 0, last: 0}}
  end

  @impl true
  def handle_cast({:ship, number}, state) do
    state = Shop.handled(state, __MODULE__, number)
    if state.seq == 97, do: raise("the van broke down with parcel #{number}")
    {:noreply, state}
  end
end
