defmodule Shop.Stress do
  @moduledoc """
  Load for tests and benchmarks, with exact counters of its own: half the workers are plain processes, half GenServers.
  A worker gets `{:work, k}` (a GenServer as a cast) with k = 1, 2, 3, ... and calls `step/1` once for each, so that for
  every worker the recorded messages, and the calls of `step/1`, must be 1..n with nothing missing and nothing twice.

      Shop.Stress.run(10, 1_000)                  # 10 workers, 1,000 messages a second altogether, 5 s
      stress = Shop.Stress.start(10, :flat_out)   # as fast as the workers can, until
      Shop.Stress.stop(stress)                    # %{sent: n, handled: n, late: n, workers: %{pid => n}, ms: t}

  A driver never has more than 200 messages under way per worker: mailboxes stay small however slow the workers become.
  What it could not send in time is `late`, and is not sent later.
  """
  @window 200

  defstruct [:driver, :workers]

  @doc "Runs for `seconds:` (default 5) and returns what `stop/1` does."
  def run(processes, rate, opts \\ []) do
    stress = start(processes, rate, opts)
    Process.sleep(round(Keyword.get(opts, :seconds, 5) * 1000))
    stop(stress)
  end

  @doc "`rate` is messages per second over all workers, or `:flat_out`. `kind:` is `:plain`, `:gen_server` or `:both`."
  def start(processes, rate, opts \\ []) when processes > 0 do
    kind = Keyword.get(opts, :kind, :both)
    done = :counters.new(processes, [:write_concurrency])
    workers = for i <- 1..processes, do: worker(i, kind, done)

    driver =
      spawn(fn ->
        drive(%{workers: List.to_tuple(workers), rate: rate, done: done, begun: now(), late: 0})
      end)

    %__MODULE__{driver: driver, workers: Enum.map(workers, &elem(&1, 1))}
  end

  @doc "Stops the driver, waits (at most 30 s) until all that was sent is handled, ends the workers, returns the counts."
  def stop(%__MODULE__{driver: driver}) do
    ref = Process.monitor(driver)
    send(driver, {:stop, self(), ref})

    receive do
      {^ref, totals} -> totals
      {:DOWN, ^ref, :process, _, reason} -> exit(reason)
    after
      40_000 -> exit(:timeout)
    end
  end

  @doc "The function to trace: what every worker calls once per message."
  def step(k), do: k + 1

  # One turn of the driver lasts 5 ms: what is due by now is spread over the workers in turn.
  defp drive(%{workers: workers} = s) do
    n = tuple_size(workers)
    drive(s, List.to_tuple(List.duplicate(0, n)), 0, 0)
  end

  defp drive(s, sent, total, turn) do
    wanted =
      if s.rate == :flat_out,
        do: total + @window * tuple_size(sent),
        else: div((now() - s.begun) * s.rate, 1_000_000)

    {sent, total, turn, late} = push(s, sent, total, turn, max(0, wanted - total - s.late), 0)
    s = if s.rate == :flat_out, do: s, else: %{s | late: s.late + late}

    receive do
      {:stop, from, ref} -> send(from, {ref, finish(s, sent, total)})
    after
      if(s.rate == :flat_out, do: 1, else: 5) -> drive(s, sent, total, turn)
    end
  end

  defp push(_s, sent, total, turn, 0, late), do: {sent, total, turn, late}

  defp push(s, sent, total, turn, left, late) do
    i = rem(turn, tuple_size(sent))
    k = elem(sent, i) + 1

    if k - :counters.get(s.done, i + 1) <= @window do
      post(elem(s.workers, i), k)
      push(s, put_elem(sent, i, k), total + 1, turn + 1, left - 1, late)
    else
      push(s, sent, total, turn + 1, left - 1, late + 1)
    end
  end

  defp finish(s, sent, total) do
    ms = div(now() - s.begun, 1000)
    n = tuple_size(sent)
    handled = await(s.done, total, n, now() + 30_000_000)

    workers =
      for i <- 1..n, into: %{}, do: {elem(elem(s.workers, i - 1), 1), :counters.get(s.done, i)}

    for {pid, _} <- workers, do: Process.exit(pid, :kill)
    %{sent: total, handled: handled, late: s.late, workers: workers, ms: ms}
  end

  defp await(done, total, n, until) do
    handled = Enum.sum(for i <- 1..n, do: :counters.get(done, i))

    if handled < total and now() < until do
      Process.sleep(5)
      await(done, total, n, until)
    else
      handled
    end
  end

  defp post({:plain, pid}, k), do: send(pid, {:work, k})
  defp post({:gen_server, pid}, k), do: GenServer.cast(pid, {:work, k})

  defp worker(i, kind, done) do
    if kind == :plain or (kind == :both and rem(i, 2) == 1) do
      {:plain, spawn(fn -> plain(i, done) end)}
    else
      {:ok, pid} = GenServer.start(Shop.Stress.Worker, {i, done})
      {:gen_server, pid}
    end
  end

  defp plain(i, done) do
    receive do
      {:work, k} ->
        step(k)
        :counters.add(done, i, 1)
    end

    plain(i, done)
  end

  defp now, do: System.monotonic_time(:microsecond)
end

defmodule Shop.Stress.Worker do
  @moduledoc "The GenServer worker of `Shop.Stress`; its state is `%{seq: messages handled, last: k}`."
  use GenServer

  @impl true
  def init({i, done}), do: {:ok, %{seq: 0, last: 0, index: i, done: done}}

  @impl true
  def handle_cast({:work, k}, state) do
    Shop.Stress.step(k)
    :counters.add(state.done, state.index, 1)
    {:noreply, %{state | seq: state.seq + 1, last: k}}
  end
end
