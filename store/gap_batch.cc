#include "store/gap_batch.h"

#include "ei_codec/term_builder.h"

namespace scope::store {

Result<IncomingBatch> gap_batch(Incarnation incarnation, std::string_view reason, RawTime from,
                                RawTime until) {
  codec::TermBuilder empty = codec::TermBuilder::with_version();
  empty.nil();
  codec::TermBuilder b;
  b.tuple(7).atom("batch").integer(0).integer(0);
  b.tuple(2).integer(until.ns).integer(0);
  b.list(1).tuple(4).atom(reason).atom("unknown").integer(from.ns).integer(until.ns).nil();
  b.integer(until.ns);
  b.tuple(3).atom("etf").integer(1).binary(empty.bytes());
  const auto encoded = b.bytes();
  auto buffer = std::make_shared<std::vector<std::byte>>(encoded.begin(), encoded.end());
  ASSIGN_OR_RETURN(const auto message, codec::view(*buffer));
  return IncomingBatch{incarnation, 0, buffer, message};
}

}  // namespace scope::store
