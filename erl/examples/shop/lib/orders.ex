defmodule Shop.Orders do
  @moduledoc "Starts an Order for each request and tells Front how it ended."
  use GenServer

  def start_link(_), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @impl true
  def init(nil) do
    Shop.counter(__MODULE__)
    {:ok, %{seq: 0, last: 0, open: %{}, finished: 0}}
  end

  @impl true
  def handle_cast({:place, number, item, quantity, front}, state) do
    state = Shop.handled(state, __MODULE__, number)
    order = %{number: number, item: item, quantity: quantity}
    {:ok, pid} = DynamicSupervisor.start_child(Shop.OrderSupervisor, {Shop.Order, order})
    ref = Process.monitor(pid)
    {:noreply, put_in(state.open[ref], {number, front})}
  end

  # An order's exit reason is its outcome; whatever else it died of is a failure.
  @impl true
  def handle_info({:DOWN, ref, :process, _pid, reason}, state) do
    {{number, front}, state} = pop_in(state.open[ref])
    outcome = with {:shutdown, {:order, outcome}} <- reason, do: outcome
    outcome = if is_atom(outcome), do: outcome, else: :failed
    GenServer.cast(front, {:done, number, outcome})
    {:noreply, Shop.handled(%{state | finished: state.finished + 1}, __MODULE__, number)}
  end
end

defmodule Shop.Order do
  @moduledoc "The life of one order: new -> reserved -> paying -> packing -> the end, by what Stock and Payment say."
  @behaviour :gen_statem

  def child_spec(order),
    do: %{id: __MODULE__, start: {__MODULE__, :start_link, [order]}, restart: :temporary}

  def start_link(order), do: :gen_statem.start_link(__MODULE__, order, [])

  @impl true
  def callback_mode, do: :state_functions

  @impl true
  def init(order), do: {:ok, :new, order, [{:next_event, :internal, :reserve}]}

  def new(:internal, :reserve, order) do
    case ask(Shop.Stock, {:reserve, order.number, order.item, order.quantity}) do
      {:ok, cents} ->
        {:next_state, :reserved, Map.put(order, :cents, cents), [{:next_event, :internal, :pay}]}

      {:error, why} ->
        finish(order, why)
    end
  end

  def reserved(:internal, :pay, order) do
    task = Task.async(fn -> ask(Shop.Payment, {:charge, order.number, order.cents}) end)

    {:next_state, :paying, Map.put(order, :payment, task.ref),
     [{:state_timeout, 4_000, :no_answer}]}
  end

  def paying(:info, {ref, answer}, %{payment: ref} = order) do
    Process.demonitor(ref, [:flush])

    case answer do
      :ok ->
        GenServer.cast({Shop.Courier, Shop.at(:stock)}, {:ship, order.number})
        {:next_state, :packing, order, [{:state_timeout, 20, :packed}]}

      {:error, why} ->
        GenServer.cast(
          {Shop.Stock, Shop.at(:stock)},
          {:release, order.number, order.item, order.quantity}
        )

        finish(order, why)
    end
  end

  def paying(:state_timeout, :no_answer, order), do: finish(order, :no_answer)

  def packing(:state_timeout, :packed, order), do: finish(order, :shipped)
  def packing(:info, _other, _order), do: :keep_state_and_data

  defp finish(_order, outcome), do: {:stop, {:shutdown, {:order, outcome}}}

  defp ask(server, request) do
    GenServer.call({server, Shop.at(:stock)}, request, 3_000)
  catch
    :exit, _ -> {:error, :no_answer}
  end
end
