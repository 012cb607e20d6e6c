#include "analysis/seq_token.h"

#include <xxhash.h>

#include "analysis/resolve.h"

namespace scope::analysis {

using codec::EventType;

std::optional<SeqToken> read_token(const RowStream::Item& item, const store::View& view,
                                   Receivers& receivers) {
  const auto said = codec::read_seq(item.row->record);
  if (!said) return std::nullopt;
  SeqToken out;
  out.send = item.row->record.type == EventType::seq_send;
  out.label = said->label;
  out.row = *item.row;
  out.row.record.type = out.send ? EventType::message_send : EventType::message_take;
  out.row.record.payload = said->message.bytes();
  out.message = receivers.message(out.row, item.at);
  auto sender = out.message.process;
  if (!out.send) {
    const auto& peer = out.row.record.peer;
    const auto* own = info_of(view, out.row.process.incarnation);
    if (peer.kind != codec::Peer::Kind::pid || own == nullptr) return std::nullopt;
    sender = receivers.home(
        codec::PidParts{peer.node.empty() ? std::string_view(own->node) : peer.node, peer.id,
                        peer.serial, peer.creation == 0 ? own->creation : peer.creation});
  }
  const auto label = said->label.bytes();
  const auto of_label = XXH3_64bits(label.data(), label.size());
  const auto key_of = [&](const ProcessId& p, std::uint64_t serial) {
    const std::array<std::uint64_t, 4> words{of_label, p.incarnation,
                                             std::uint64_t{p.id} << 32 | p.serial, serial};
    return XXH3_64bits(words.data(), sizeof words) | 1U;  // 0: none
  };
  out.key = key_of(sender, said->current);
  out.link = key_of(out.message.process, out.send ? said->previous : said->current);
  return out;
}

}  // namespace scope::analysis
