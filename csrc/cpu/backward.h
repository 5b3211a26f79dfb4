// Backpropagation through time of one layer, both directions.
//
// Per step, last to first: D(h) = d_out + (hidden slots of the step after) W_hh, then the cell's vjp turns it, together with what
// the cell carries past W_hh, into this step's slots: D(pre-activations), [slots, Hp] for each token. The columns of D(h) that a
// thread computes are the units whose vjp it runs, so the team meets once a step (twice with a projection or a gated state). After each chunk of
// steps (chunk.h) all threads run the products over its tokens that need no recurrence: gradients.h.
//
// No include guard: included once inside each ISA's namespace, after its target pragma (csrc/README.md says why).

template <class T, template <class> class CellOf>
class Backward {
  using V = Vec<T>;
  using C = CellOf<V>;
  static constexpr int plain_gates = C::gates - C::gated_products;  // whose recurrent product is with h

  // What one thread works in.
  struct Scratch {
    const T** slot_rows;    // [group_rows] D(pre-activations) of the step processed before
    const T** state_rows;   // [group_rows] with a projection: D(h) of this step
    T* d_hidden;            // [group_rows, width] with a projection: D(o * tanh(c)); D(gated state) of a cell that has one
  };

  // A task as one member of its team sees it.
  struct MemberTask : Task {
    int member;
    Range state_panels, hidden_panels;
    Barrier& barrier;
    Scratch s;
    Chunk chunk, before;  // the steps at hand, and those the loop has just left
  };

  const BackwardArgs<T>& a_;
  const Shape s_;
  const Partition partition_;
  const int64_t Hp_, group_rows_;
  const bool projected_, recomputes_;
  const int64_t w_hh_bytes_;  // that a member reads at each step
  Barriers barriers_;
  Panels<T> w_hh_[2];    // [plain gates * H, P]: D(h) from D(pre-activations)
  Panels<T> gated_[2];   // [gated products * H, P]: D(gated state) likewise
  Panels<T> w_hr_[2];    // [P, H]: D(o * tanh(c)) from D(h)
  T* d_h_[2];            // [B, padded P] D(h) that came back through W_hh, before a row's last step: d_h_n
  T* d_carry_[2];        // [B, Hp] LSTM: D(c); GRU: D(h) that came past W_hh
  int64_t d_h_stride_;
  Recompute<T, CellOf> recompute_;  // of the gates, where they were not saved
  TokenGradients<T> tokens_;
  Gradients<T, C> gradients_;
  PerThread<Scratch> scratch_;
  size_t workspace_;

 public:
  Backward(const BackwardArgs<T>& args, const Partition& partition, void* workspace)
      : a_(args),
        s_(args.shape),
        partition_(partition),
        Hp_(padded_units(s_.H)),
        group_rows_((s_.B + partition.groups - 1) / partition.groups),
        projected_(args.weights[0].w_hr),
        recomputes_(C::saved && !args.gates),
        w_hh_bytes_(plain_gates * s_.H * s_.P * int64_t(sizeof(T)) / partition.members) {
    Arena arena(workspace);
    barriers_.place(arena, partition.teams());
    for (int d = 0; d < s_.D; ++d) {
      w_hh_[d] = Panels<T>(arena, plain_gates * s_.H, s_.P);
      if (C::gated_products) gated_[d] = Panels<T>(arena, C::gated_products * s_.H, s_.P);
      d_h_stride_ = w_hh_[d].padded_columns();
      d_h_[d] = arena.take<T>(s_.B * d_h_stride_);
      d_carry_[d] = arena.take<T>(s_.B * Hp_);
      if (projected_) w_hr_[d] = Panels<T>(arena, s_.P, s_.H);
    }
    if (recomputes_) recompute_ = Recompute<T, CellOf>(arena, args, partition.threads);
    tokens_ = TokenGradients<T>(arena, s_, C::slots, projected_, C::gated_products);
    gradients_ = Gradients<T, C>(args, tokens_, partition.threads, arena);
    scratch_ = PerThread<Scratch>(arena, partition.threads, [this](Arena& own) { return scratch(own); });
    workspace_ = arena.used();
  }

  static constexpr int weight_bytes = sizeof(T);
  static Packing packing(const Shape&) { return Packing::now; }
  static int64_t independent_panels(const BackwardArgs<T>&) { return 0; }
  size_t workspace() const { return workspace_; }

  void operator()(int thread) const {
    pack(thread);
    if (recomputes_) recompute_.pack(thread);
    gradients_.pack(thread);
    barriers_.all->wait(partition_.threads);
    const int team = thread / partition_.members, member = thread % partition_.members;
    MemberTask task{{s_, a_.schedule, partition_.groups}, member, share(w_hh_[0].count(), partition_.members, member), {}, barriers_.team[team],
                    scratch_(thread, [this](Arena& own) { return scratch(own); }), {}, {}};
    if (projected_) task.hidden_panels = share(w_hr_[0].count(), partition_.members, member);

    Chunk before[2], chunks[2];
    for (int d = 0; d < s_.D; ++d) chunks[d].d = d, chunks[d].begin = s_.T;
    while (chunks[0].begin > 0 || chunks[1].begin > 0) {
      for (int d = 0; d < s_.D; ++d) before[d] = chunks[d], chunks[d] = chunks[d].next(a_.schedule, s_);
      if (recomputes_) {
        recompute_(thread, chunks, tokens_, *barriers_.all);
        barriers_.all->wait(partition_.threads);
      }
      for (int64_t i = team; i < s_.D * partition_.groups; i += partition_.teams()) {
        task.select(i);
        task.chunk = chunks[task.d];
        task.before = before[task.d];
        if (task.chunk.end > 0) run(task);
      }
      barriers_.all->wait(partition_.threads);
      gradients_(thread, chunks, *barriers_.all);
    }
  }

 private:
  Scratch scratch(Arena& arena) const {
    Scratch s{};
    s.slot_rows = arena.take<const T*>(group_rows_);
    if (projected_) s.state_rows = arena.take<const T*>(group_rows_);
    if (projected_) s.d_hidden = arena.take<T>(group_rows_ * w_hr_[0].width());
    if (C::gated_products) s.d_hidden = arena.take<T>(group_rows_ * gated_[0].width());
    return s;
  }

  void pack(int thread) const {
    const Range mine = share(s_.D * w_hh_[0].count(), partition_.threads, thread);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      const int64_t d = i / w_hh_[0].count(), p = i % w_hh_[0].count();
      w_hh_[d].pack(p, a_.weights[d].w_hh);
      if (C::gated_products) gated_[d].pack(p, a_.weights[d].w_hh + plain_gates * s_.H * s_.P);
    }
    if (!projected_) return;
    for (int d = 0; d < s_.D; ++d) {
      const Range hidden = share(w_hr_[d].count(), partition_.threads, thread);
      for (int64_t p = hidden.begin; p < hidden.end; ++p) w_hr_[d].pack(p, a_.weights[d].w_hr);
    }
  }

  void run(MemberTask& task) const {
    const Chunk& chunk = task.chunk;
    int64_t after = 0;  // rows of the step processed before, which is the later one in the direction's time
    if (chunk.end == s_.T) start(task);
    else after = set_slot_rows(task, task.before, task.time(chunk.end));
    for (int64_t step = chunk.end - 1; step >= chunk.begin; --step) {
      const int64_t t = task.time(step), n = task.active_rows(t);
      d_state_after(task, step, after);
      if (C::has_cell_state && a_.d_c_out.data) add_d_cells(task, t, n);
      if (projected_) backward_through_projection(task, t, n);
      else backward_through_cell(task, t, n);
      if constexpr (C::gated_products) backward_through_gated_state(task, t, n);
      meet(task);
      after = set_slot_rows(task, chunk, t);
    }
    if (chunk.begin > 0) return;
    d_state_after(task, -1, after);
    meet(task);
    finish(task);
  }

  // The slots of time t, which `chunk` holds, are what the next step meets. Returns the number of rows.
  int64_t set_slot_rows(const MemberTask& task, const Chunk& chunk, int64_t t) const {
    const int64_t n = task.active_rows(t);
    for (int64_t i = 0; i < n; ++i) task.s.slot_rows[i] = tokens_.slots(chunk, task.token(t, i));
    return n;
  }

  // Every row at d_h_n and d_c_n, in the columns this member owns.
  void start(const MemberTask& task) const {
    const Range states = columns(task.state_panels, w_hh_[0]), units = own_units(task);
    for (int64_t i = 0; i < task.rows(); ++i) {
      const int64_t b = task.row(i), source = task.d * s_.B + a_.schedule.order[b];
      for (int64_t u = states.begin; u < states.end; u += V::lanes)
        (a_.d_h_n ? load_upto(a_.d_h_n + source * s_.P + u, s_.P - u) : V(0)).store(d_h_[task.d] + b * d_h_stride_ + u);
      for (int64_t u = units.begin; u < std::min(units.end, s_.H); u += V::lanes)
        (a_.d_c_n ? load_upto(a_.d_c_n + source * s_.H + u, s_.H - u) : V(0)).store(d_carry_[task.d] + b * Hp_ + u);
    }
  }

  static Range columns(const Range& panels, const Panels<T>& of) { return {panels.begin * of.width(), panels.end * of.width()}; }
  Range own_units(const MemberTask& task) const {
    return projected_ ? columns(task.hidden_panels, w_hr_[0]) : columns(task.state_panels, w_hh_[0]);
  }

  // D(h) of the first n rows after `step`, whose next step they run too; -1 is h0.
  void d_state_after(const MemberTask& task, int64_t step, int64_t n) const {
    multiply_w_hh(task, step, n);
    if (a_.reset.mask.data) d_reset(task, task.time(step + 1), n);
  }

  // A state that was set anew before time t passes its gradient to what it was set to, and nothing to the step before.
  void d_reset(const MemberTask& task, int64_t t, int64_t n) const {
    const Range states = columns(task.state_panels, w_hh_[0]), units = own_units(task);
    const auto move = [](T* from, T* to, const Range& own, int64_t end) {
      for (int64_t u = own.begin; u < std::min(own.end, end); ++u) {
        if (to) to[u] += from[u];
        from[u] = T(0);
      }
    };
    for (int64_t i = 0; i < n; ++i) {
      const int64_t b = task.row(i), row = task.d * s_.B + a_.schedule.order[b];
      if (!a_.reset.at(a_.schedule, t, b)) continue;
      T* d_h = a_.d_reset_h ? a_.d_reset_h + row * s_.P : nullptr;
      T* d_c = a_.d_reset_c ? a_.d_reset_c + row * s_.H : nullptr;
      move(d_h_[task.d] + b * d_h_stride_, d_h, states, s_.P);
      move(d_carry_[task.d] + b * Hp_, C::blends_state ? d_h : d_c, units, s_.H);
    }
  }

  // Adds the caller's gradient of c_out to the D(c) of time t's rows.
  void add_d_cells(const MemberTask& task, int64_t t, int64_t n) const {
    const Range units = own_units(task);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t b = task.row(i);
      const T* d_c = a_.d_c_out.at(a_.schedule, t, b) + task.d * s_.H;
      T* carry = d_carry_[task.d] + b * Hp_;
      for (int64_t u = units.begin; u < std::min(units.end, s_.H); ++u) carry[u] += d_c[u];
    }
  }

  // D(h) by way of the step after: its D(pre-activations) through W_hh.
  void multiply_w_hh(const MemberTask& task, int64_t step, int64_t n) const {
    const Stretches k = gate_stretches(C::hidden_slots, plain_gates, s_.H, Hp_);
    T* to = d_h_[task.d] + task.group * d_h_stride_;
    for_panels(task.state_panels, walks_back(w_hh_bytes_, step), [&](int64_t p, int ahead) {
      w_hh_[task.d].multiply(task.s.slot_rows, n, k, p, Target<T>{to, partition_.groups * d_h_stride_, nullptr, 0, d_h_stride_}, ahead);
    });
  }

  void backward_through_cell(const MemberTask& task, int64_t t, int64_t n) const {
    const int64_t width = w_hh_[task.d].width();
    const Range units{task.state_panels.begin * width, std::min(task.state_panels.end * width, s_.H)};
    for_rows(n, [&](int64_t i, auto count) {
      const TokenRows<count> rows(*this, task, t, i);
      for (int64_t u = units.begin; u < units.end; u += V::lanes)
        apply_vjp(rows, u, Several<V, count>::of([&](int j) { return d_state(rows, j, u); }));
    });
  }

  void backward_through_projection(const MemberTask& task, int64_t t, int64_t n) const {
    const int64_t state_width = w_hh_[0].width(), width = w_hr_[0].width();
    const Range states{task.state_panels.begin * state_width, std::min(task.state_panels.end * state_width, s_.P)};
    for (int64_t i = 0; i < n; ++i) {
      const TokenRows<1> row(*this, task, t, i);
      T* state = tokens_.state(task.chunk, task.token(t, i));
      task.s.state_rows[i] = state;
      for (int64_t u = states.begin; u < states.end; u += V::lanes) d_state(row, 0, u).store(state + u);
    }
    meet(task);
    for (int64_t p = task.hidden_panels.begin; p < task.hidden_panels.end; ++p) {
      w_hr_[task.d].multiply(task.s.state_rows, n, whole_row(s_.P), p, Target<T>{task.s.d_hidden, width, nullptr, -p * width, (p + 1) * width});
      for_rows(n, [&](int64_t i, auto count) {
        const TokenRows<count> rows(*this, task, t, i);
        const T* d_hidden = task.s.d_hidden + i * width - p * width;
        for (int64_t u = p * width; u < std::min((p + 1) * width, s_.H); u += V::lanes)
          apply_vjp(rows, u, Several<V, count>::of([&](int j) { return V::load(d_hidden + j * width + u); }));
      });
    }
  }

  // Pointers to everything that `count` tokens have; null where the cell has no such thing.
  template <int count>
  struct TokenRows {
    const T *gates[count], *cell[count], *before[count], *out[count], *d_h[count], *d_out[count];
    T *carry[count], *slots[count], *hidden[count];

    RNNK_FN TokenRows(const Backward& k, const MemberTask& task, int64_t t, int64_t i) {
      const BackwardArgs<T>& a = k.a_;
#pragma GCC unroll 4
      for (int j = 0; j < count; ++j) {
        const int64_t b = task.row(i + j), token = task.token(t, i + j), saved = task.d * k.s_.N + token;
        gates[j] = k.recomputes_ ? k.recompute_.gates(task.chunk, token) : a.gates + saved * C::saved * k.Hp_;
        cell[j] = C::has_cell_state ? a.cells + saved * k.Hp_ : nullptr;
        before[j] = C::has_cell_state ? cell_before(a, task.d, t, b, k.Hp_) : C::blends_state ? state_before(a, task.d, t, b) : nullptr;
        out[j] = a.out.at(a.schedule, t, b) + task.d * k.s_.P;
        d_h[j] = k.d_h_[task.d] + b * k.d_h_stride_;
        d_out[j] = a.d_out.data ? a.d_out.at(a.schedule, t, b) + task.d * k.s_.P : nullptr;
        carry[j] = k.d_carry_[task.d] + b * k.Hp_;
        slots[j] = k.tokens_.slots(task.chunk, token);
        hidden[j] = k.projected_ || C::gated_products ? k.tokens_.hidden(task.chunk, token) : nullptr;
      }
    }
  };

  // D(h) = W_hh's part + d_out, of states u .. u + lanes.
  template <int count>
  RNNK_FN V d_state(const TokenRows<count>& rows, int j, int64_t u) const {
    const V d = V::load(rows.d_h[j] + u);
    return rows.d_out[j] ? d + load_upto(rows.d_out[j] + u, s_.P - u) : d;
  }

  template <int count>
  RNNK_FN void apply_vjp(const TokenRows<count>& rows, int64_t u, const Several<V, count>& d_h) const {
    using W = Several<V, count>;
    W saved[C::saved ? C::saved : 1], state(0), previous(0);
    for (int k = 0; k < C::saved; ++k) saved[k] = W::of([&](int j) { return V::load(rows.gates[j] + k * Hp_ + u); });
    if (C::has_cell_state || C::blends_state) previous = W::of([&](int j) { return load_upto(rows.before[j] + u, s_.H - u); });
    if constexpr (C::has_cell_state) {
      state = W::of([&](int j) { return V::load(rows.cell[j] + u); });
      if (projected_) {
        const W h = CellOf<W>::hidden(saved, state);
        W::for_each([&](int j) { h.part[j].store(rows.hidden[j] + u); });
      }
    } else if (!C::blends_state) {
      state = W::of([&](int j) { return load_upto(rows.out[j] + u, s_.H - u); });
    }
    const auto d = CellOf<W>::vjp(saved, state, previous, d_h, W::of([&](int j) { return V::load(rows.carry[j] + u); }));
    W::for_each([&](int j) {
      d.carry.part[j].store(rows.carry[j] + u);
      for (int k = 0; k < C::slots; ++k) d.slots[k].part[j].store(rows.slots[j] + k * Hp_ + u);
    });
  }

  // The slots that D(gated state) completes, for which everybody's last slots must be there.
  void backward_through_gated_state(const MemberTask& task, int64_t t, int64_t n) const {
    meet(task);
    set_slot_rows(task, task.chunk, t);
    const Stretches k = gate_stretches(C::hidden_slots + plain_gates, C::gated_products, s_.H, Hp_);
    const int64_t width = gated_[task.d].width();
    for (int64_t p = task.state_panels.begin; p < task.state_panels.end; ++p) {
      gated_[task.d].multiply(task.s.slot_rows, n, k, p, Target<T>{task.s.d_hidden, width, nullptr, -p * width, (p + 1) * width});
      for_rows(n, [&](int64_t i, auto count) {
        const TokenRows<count> rows(*this, task, t, i);
        const T* d_gated = task.s.d_hidden + i * width - p * width;
        for (int64_t u = p * width; u < std::min((p + 1) * width, s_.H); u += V::lanes)
          apply_vjp_of_gated_state(rows, u, Several<V, count>::of([&](int j) { return V::load(d_gated + j * width + u); }));
      });
    }
  }

  template <int count>
  RNNK_FN void apply_vjp_of_gated_state(const TokenRows<count>& rows, int64_t u, const Several<V, count>& d_gated) const {
    using W = Several<V, count>;
    W saved[C::saved];
    for (int k = 0; k < C::saved; ++k) saved[k] = W::of([&](int j) { return V::load(rows.gates[j] + k * Hp_ + u); });
    const W previous = W::of([&](int j) { return load_upto(rows.before[j] + u, s_.H - u); });
    const auto d = CellOf<W>::vjp_of_gated_state(saved, previous, d_gated, W::of([&](int j) { return V::load(rows.carry[j] + u); }));
    const W gated = CellOf<W>::gated_state(saved, previous);
    W::for_each([&](int j) {
      d.slot.part[j].store(rows.slots[j] + u);
      d.carry.part[j].store(rows.carry[j] + u);
      gated.part[j].store(rows.hidden[j] + u);
    });
  }

  void finish(const MemberTask& task) const {
    for (int64_t i = task.member; i < task.rows(); i += partition_.members) {
      const int64_t b = task.row(i), to = task.d * s_.B + a_.schedule.order[b];
      const T* carry = d_carry_[task.d] + b * Hp_;
      const T* d_h = d_h_[task.d] + b * d_h_stride_;
      if (a_.d_h0)
        for (int64_t u = 0; u < s_.P; ++u) a_.d_h0[to * s_.P + u] = C::blends_state ? d_h[u] + carry[u] : d_h[u];
      if (C::has_cell_state && a_.d_c0) std::copy_n(carry, s_.H, a_.d_c0 + to * s_.H);
    }
  }

  void meet(const MemberTask& task) const { task.barrier.wait(partition_.members); }
};
