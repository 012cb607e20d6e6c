// What seq_trace says of a message, as its rows hold it.
//
// Rows     seq_send, of the sender, `peer` the receiver; seq_receive, of the process whose receive expression matched the
//          message, `peer` the sender. Payload: {Label, {Previous, Current}, Message}; hash: the message's.
// Names    Every sending with a token counts the serial on, so label, sender and Current name one message: `key`. Previous is
//          the serial of the message that the sender had matched before: `link`, the same of a taking and of what its process
//          sends next because of it.
// Beside   a message's own rows, or alone where its process is traced by its token only.
// Source   seq_trace(3), "Trace Messages" and "Tracing Principle".
// Thread   Pure.
#pragma once

#include <optional>

#include "analysis/message.h"
#include "analysis/row_stream.h"

namespace scope::analysis {

struct SeqToken {
  bool send = false;
  store::StoredRow row;  // as the message's own would be: message_send or message_take
  Message message;       // of `row`
  std::uint64_t key = 0, link = 0;
  codec::TermView label;
};

// The views are the item's. nullopt: the payload was cut, or a sender is not a process.
std::optional<SeqToken> read_token(const RowStream::Item& item, const store::View& view,
                                   Receivers& receivers);

}  // namespace scope::analysis
