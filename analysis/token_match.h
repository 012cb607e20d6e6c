// TokenMatcher: which message arrived where, as seq_trace's tokens say it (seq_token.h), told by the messages' own rows
// where these were recorded too.
//
// Twins   A token's row and the message's own are rows of one process with one content, at most kTwinNs apart. Both come in
//         the process's order, so each token takes the nearest row after the one that the token before took. Of a taking the
//         own row is a message_take; of a process whose takings are not seen, a fetch.
// Bounds  Keeps what is added: the caller bounds it. Thread: one.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "analysis/seq_token.h"

namespace scope::analysis {

inline constexpr std::int64_t kTwinNs = 50'000'000;

class TokenMatcher {
 public:
  // In order of time.
  void add(const Message& own) { own_.push_back(own); }
  void add(const SeqToken& token);

  struct Edge {
    EventId send;
    Message arrival;  // a fetch, or a taking
  };
  // Of all tokens whose two ends were added.
  std::vector<Edge> edges();
  // After edges(): rows of tokens whose message has a row of its own.
  const std::set<EventId>& beside() const { return beside_; }

 private:
  struct Token {
    Message message;
    std::uint64_t key = 0;
    const Message* own = nullptr;
  };
  void pair(std::vector<Token>& tokens, codec::EventType type);

  std::vector<Message> own_;
  std::vector<Token> sends_, takes_;
  std::set<EventId> beside_;
};

}  // namespace scope::analysis
