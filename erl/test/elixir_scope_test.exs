defmodule ElixirScopeTest do
  # The face alone; against a daemon it is tried with the demo cluster.
  use ExUnit.Case, async: true

  doctest ElixirScope, only: [running?: 1]
  doctest ElixirScope.Event
  doctest ElixirScope.Error

  # Answers whatever it is asked with the request itself: what the face sends can be seen.
  defmodule Echo do
    use GenServer
    def init(nil), do: {:ok, nil}
    def handle_call(request, _from, nil), do: {:reply, {:ok, request}, nil}
  end

  setup do
    # Supervised: it is gone before the next test begins.
    start_supervised!(%{
      id: Echo,
      start: {GenServer, :start_link, [Echo, nil, [name: :elixir_scope]]}
    })

    %{at: [scope: node()]}
  end

  test "options of ours stay here, the rest is sent", %{at: at} do
    assert {:ok, {:start, [modules: [Shop]]}} = ElixirScope.start([modules: [Shop]] ++ at)
    assert {:ok, {:stop, :all}} = ElixirScope.stop(:all, at)
    assert {:ok, :status} = ElixirScope.status(at)
    assert {:ok, {:start, map}} = ElixirScope.start(%{scope: node(), names: [Shop]})
    assert map == %{names: [Shop]}
    assert ElixirScope.running?(at)
  end

  test "a DateTime becomes nanoseconds, a name a process of this node", %{at: at} do
    time = ~U[2023-11-14 22:13:20.000001Z]
    ns = 1_700_000_000_000_001_000
    assert {:ok, {:get_state_at, {Shop, node}, ^ns}} = ElixirScope.get_state_at(Shop, time, at)
    assert node == node()
    filter = [since: time, until: :now] ++ at
    assert {:ok, {:get_state_history, _, got}} = ElixirScope.get_state_history(self(), filter)
    assert Enum.sort(got) == [since: ns, until: :now]

    assert {:get_state_diff, _, ^ns, {:ago, 1, :second}} =
             ElixirScope.get_state_diff!(Shop, time, {:ago, 1, :second}, at)
  end

  test "errors: never an exit, and raised by the forms with !" do
    assert {:error, {:not_running, %{hint: hint}}} = ElixirScope.status(scope: :scope@nowhere)
    assert is_binary(hint)
    assert {:error, {:no_scope_node, _}} = ElixirScope.status()

    assert_raise ElixirScope.Error, ~r/^not_running: /, fn ->
      ElixirScope.get_events!(scope: :scope@nowhere)
    end

    Application.put_env(:elixir_scope, :scope_node, node())
    assert {:ok, :status} = ElixirScope.status()
    Application.delete_env(:elixir_scope, :scope_node)
  end

  test "an event inspects on one line where it can" do
    event =
      ElixirScope.Event.new(%{
        id: "x",
        node: :a@h,
        pid: nil,
        type: :message_send,
        time: 1_700_000_000_000_001_000,
        time_error: 12_300,
        to: {Shop, :b@h},
        message: {:buy, 1}
      })

    assert inspect(event) ==
             "#ElixirScope.Event<message_send 22:13:20.000001±12.3µs a@h message: {:buy, 1} to: {Shop, :b@h}>"

    assert inspect(%ElixirScope.Event{type: :gap}) == "#ElixirScope.Event<gap>"
  end
end
