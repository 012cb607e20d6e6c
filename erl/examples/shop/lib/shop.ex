defmodule Shop do
  @moduledoc """
  A small shop on three BEAM nodes, to be watched by ElixirScope: no dependency, nothing in it knows of tracing.

      customers -> Front (front) -> Orders (orders) -> an Order (gen_statem) -> Stock, Payment, Courier (stock)

  A node's role is the part of its name before the `@`. The load is steady and bounded. Each request carries a number,
  each server counts what it handles (`seq`, by one per message), and `counts/0` tells the same numbers without asking
  the servers, so that a test can judge whether a recording lost or doubled anything.
  """

  @max_rate 500

  @doc "Starts this node's part of the shop; for `elixir -e Shop.main`. Reads `SHOP_RATE` (requests per second)."
  def main do
    with home when home != nil <- System.get_env("SHOP_HOME"), do: File.rm_rf!(home)
    role = node() |> to_string() |> String.split("@") |> hd() |> String.to_atom()
    if role == :front, do: Enum.each([:orders, :stock], &await(at(&1), 300))
    opts = [strategy: :one_for_one, name: Shop.Supervisor, max_restarts: 100]
    {:ok, _} = Supervisor.start_link(children(role), opts)
    Process.unlink(Process.whereis(Shop.Supervisor))
    IO.puts("ready #{node()}")
  end

  defp await(node, 0),
    do: raise("#{node} does not answer: are its epmd and cookie the same as here?")

  defp await(node, tries) do
    unless Node.connect(node) == true do
      Process.sleep(100)
      await(node, tries - 1)
    end
  end

  @doc "The node of a role, on the same host as this one."
  def at(role) do
    [_, host] = node() |> to_string() |> String.split("@")
    :"#{role}@#{host}"
  end

  @doc "What each server of this node has handled since it first started, restarts included."
  def counts,
    do:
      for(
        {{Shop, server}, ref} <- :persistent_term.get(),
        into: %{},
        do: {server, :counters.get(ref, 1)}
      )

  @doc false
  def counter(server) do
    case :persistent_term.get({Shop, server}, nil) do
      nil -> :persistent_term.put({Shop, server}, :counters.new(1, []))
      _ -> :ok
    end
  end

  @doc "A server has handled a message for `request`: the one place where `seq` grows."
  def handled(%{seq: seq} = state, server, request) do
    :counters.add(:persistent_term.get({Shop, server}), 1, 1)
    %{state | seq: seq + 1, last: request}
  end

  defp children(:front) do
    [Shop.Front, {Task.Supervisor, name: Shop.Visits}, {Shop.Customers, rate()}]
  end

  defp children(:orders) do
    [{DynamicSupervisor, name: Shop.OrderSupervisor, strategy: :one_for_one}, Shop.Orders]
  end

  defp children(:stock) do
    [Shop.Till, {Task.Supervisor, name: Shop.Bank}, Shop.Stock, Shop.Payment, Shop.Courier]
  end

  defp children(_any), do: []

  defp rate,
    do: System.get_env("SHOP_RATE", "20") |> String.to_integer() |> max(0) |> min(@max_rate)
end
