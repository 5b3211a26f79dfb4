// R3 on the host: who has which rows, and where the CTAs of a launch leave each other messages.
#pragma once
#include <algorithm>

#include "arena.h"
#include "cuda/queue.h"
#include "cuda/regime.h"

namespace rnnk::cuda {

// Teams of `ranks` CTAs, so many of each direction, of which a launch has one or both. A team has every `teams`-th tile of 8 rows, two by two in
// `rounds`.
struct GridPlan {
  int ranks = 0, units = 0, teams = 0, rounds = 0, directions = 1;  // units: of all ranks

  GridPlan() = default;
  explicit GridPlan(const Problem& p) {
    const Teams room = resident_teams(p);
    const int64_t tiles = tiles_of_rows(p) / p.shape.D;
    directions = room.count >= p.shape.D ? p.shape.D : 1;
    ranks = room.ranks, units = room.ranks * room.units;
    teams = int(std::min<int64_t>(tiles, room.count / directions));
    rounds = teams ? int((tiles + 2 * teams - 1) / (2 * teams)) : 0;
  }
};

// As the kernels get it.
struct Mail {
  GridPlan plan;
  char* messages = nullptr;   // [D, teams, 2 tiles, 2 places, message_bytes]
  uint32_t* flags = nullptr;  // [D, teams, 2 tiles, ranks]: how many messages a rank has sent
  size_t message_bytes = 0;
  uint32_t sent = 0;  // before this launch
  int direction = 0;  // of the launch's first CTAs
};

// A message is 8 rows of `parts` values for each unit. The numbers of messages go on from chunk to chunk; before the first one all is cleared.
class Mailboxes {
  Mail mail_;
  int64_t bytes_ = 0;

 public:
  Mailboxes() = default;
  Mailboxes(Arena& arena, const Problem& p, int parts, size_t value_bytes) {
    mail_.plan = GridPlan(p);
    const int64_t boxes = int64_t(p.shape.D) * mail_.plan.teams * 2;
    mail_.message_bytes = size_t((mail_.plan.units + 31) / 32 * 32) * 8 * size_t(parts) * value_bytes;
    bytes_ = boxes * (2 * int64_t(mail_.message_bytes) + mail_.plan.ranks * int64_t(sizeof(uint32_t)));
    mail_.messages = arena.take<char>(bytes_);
    if (mail_.messages) mail_.flags = reinterpret_cast<uint32_t*>(mail_.messages + boxes * 2 * int64_t(mail_.message_bytes));
  }
  void enqueue_clear(Queue& queue) const;

  Mail after(int64_t steps) const {
    Mail mail = mail_;
    mail.sent = uint32_t(steps * mail_.plan.rounds);
    return mail;
  }
};

}  // namespace rnnk::cuda
