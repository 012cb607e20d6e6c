defmodule ElixirScope.MixProject do
  use Mix.Project

  # The application's facts are in src/elixir_scope.app.src, where rebar3 reads them too.
  {:ok, [{:application, :elixir_scope, facts}]} =
    :file.consult("#{__DIR__}/src/elixir_scope.app.src")

  {:ok, rebar} = :file.consult("#{__DIR__}/rebar.config")
  @facts facts
  @erl_opts Keyword.get(rebar, :erl_opts, [])

  def project do
    [
      app: :elixir_scope,
      version: to_string(@facts[:vsn]),
      description: to_string(@facts[:description]),
      elixir: "~> 1.14",
      erlc_options: Enum.reject(@erl_opts, &(&1 == :warnings_as_errors)),
      elixirc_options: [warnings_as_errors: Mix.env() == :test],
      deps: []
    ]
  end

  def application, do: [registered: @facts[:registered], env: @facts[:env]]
end
