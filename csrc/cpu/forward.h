// The forward time loop of one layer, both directions.
//
// The gates of a block of units come out of one product (gate_weights.h), and the cell's equations run on them while they are in
// the L1. Per chunk of steps: the x products of the chunk (they need no recurrence, so a batch of one still gets full register
// tiles); then per step, for each panel: h product, cell. A thread computes only its own panels' columns of both, so the team
// meets once a step (twice with a projection or a gated state). In a single step without either, whose weights need no packing, nobody needs
// what others compute: there a few panels are a piece that any thread may take (pieces.h).
//
// No include guard: included once inside each ISA's namespace, after its target pragma (csrc/README.md says why).

template <class T, template <class> class CellOf, class S>
class ForwardLoop {
  using V = Vec<T>;
  using C = CellOf<V>;
  using Gates = GateWeights<T, CellOf, S>;
  static constexpr int units = Gates::units, width = Gates::width;

  // What one thread works in.
  struct Scratch {
    const T** x_rows;       // [chunk_rows]
    const T** h_rows;       // [group_rows] the state each row has reached
    T** hidden_rows;        // [group_rows] with a projection: o * tanh(c); the gated state of a cell that has one
    T** out_rows;           // [group_rows] where this step's state goes
    T** gate_rows;          // [group_rows] where its saved gates go, if a backward pass follows
    T** carry_rows;         // [group_rows] LSTM: the c each row has reached
    T** next_carry_rows;    // [group_rows] LSTM: where this step's c goes
    T* x_product;           // [own panels, chunk_rows, width]
    T* h_product;           // [group_rows, width]; of one row, or with a gated state, [own panels, group_rows, width]
  };

  // A task as one member of its team sees it.
  struct MemberTask : Task {
    int members;
    Range panels, state_panels;
    Barrier& barrier;
    Scratch s;
  };

  const ForwardArgs<T>& a_;
  const Shape s_;
  const Partition partition_;
  const int64_t panels_, Hp_, group_rows_, chunk_rows_;
  const bool projected_;
  const bool streams_;  // the gates past the caches: they would leave the L2 before backward reads them, and take the weights with them
  const int64_t step_bytes_;  // of weights that a thread reads at each step
  const int64_t parts_;       // a single step's pieces of a task
  Gates weights_[2];
  Panels<T> w_hr_[2];   // with a projection
  Barriers barriers_;
  T* carry_[2];         // [B, Hp], LSTM: c before the first step, and every step's c where nothing is saved
  T* reset_carry_[2];   // [B, Hp], LSTM: c of a row that starts anew
  T* hidden_[2];        // [B, Hp], what hidden_rows point to
  PerThread<Scratch> scratch_;
  size_t workspace_;

 public:
  static constexpr int weight_bytes = sizeof(S);
  size_t workspace() const { return workspace_; }
  int64_t pieces() const { return s_.D * partition_.groups * parts_; }  // of a single step
  bool walks_back() const { return cpu::walks_back(step_bytes_, a_.call_index); }

 protected:
  // How many panels a single step has that need nothing of each other; 0 with a projection or a gated state, for which units meet once more.
  static int64_t panels_of_step(const ForwardArgs<T>& args) {
    return args.shape.T == 1 && !args.weights[0].w_hr && !C::gated_products ? Gates::panels(args.shape) : 0;
  }

  // The packed weights come first in the workspace: where they lie does not depend on the partition.
  ForwardLoop(const ForwardArgs<T>& args, const Partition& partition, void* workspace, Packing packing)
      : a_(args),
        s_(args.shape),
        partition_(partition),
        panels_(Gates::panels(s_)),
        Hp_(padded_units(s_.H)),
        group_rows_((s_.B + partition.groups - 1) / partition.groups),
        chunk_rows_(std::max(group_rows_, std::min<int64_t>(64, s_.T * group_rows_))),
        projected_(args.weights[0].w_hr),
        streams_(args.gates && s_.D * s_.N * C::saved * Hp_ * int64_t(sizeof(T)) > partition.threads * l2_bytes()),
        step_bytes_(panels_ * Gates::width * (s_.P + (s_.T == 1 ? s_.I : 0)) * weight_bytes / partition.members),
        parts_(std::min(panels_, partition.members * std::max<int64_t>(1, step_bytes_ / piece_bytes))) {
    Arena arena(workspace);
    for (int d = 0; d < s_.D; ++d) {
      weights_[d] = Gates(arena, s_, args.weights[d], packing);
      if (projected_) w_hr_[d] = Panels<T>(arena, s_.H, s_.P);
    }
    barriers_.place(arena, partition.teams());
    for (int d = 0; d < s_.D; ++d) {
      carry_[d] = C::has_cell_state ? arena.take<T>(s_.B * Hp_) : nullptr;
      reset_carry_[d] = C::has_cell_state && args.reset.mask.data ? arena.take<T>(s_.B * Hp_) : nullptr;
      hidden_[d] = projected_ || C::gated_products ? arena.take<T>(s_.B * Hp_) : nullptr;
    }
    scratch_ = PerThread<Scratch>(arena, partition.threads, [this](Arena& own) { return scratch(own); });
    workspace_ = arena.used();
  }

  void pack(int thread) const {
    Gates::pack(weights_, s_, partition_.threads, thread);
    if (!projected_) return;
    for (int d = 0; d < s_.D; ++d) {
      const Range states = share(w_hr_[d].count(), partition_.threads, thread);
      for (int64_t p = states.begin; p < states.end; ++p) w_hr_[d].pack_transposed(p, a_.weights[d].w_hr);
    }
  }

  void wait_for_all() const { barriers_.all->wait(partition_.threads); }

  void run(int thread) const {
    const int team = thread / partition_.members, member = thread % partition_.members;
    MemberTask task{{s_, a_.schedule, partition_.groups}, partition_.members, share(panels_, partition_.members, member), {},
                    barriers_.team[team], scratch_(thread, [this](Arena& own) { return scratch(own); })};
    if (projected_) task.state_panels = share(w_hr_[0].count(), partition_.members, member);
    for (int64_t i = team; i < s_.D * partition_.groups; i += partition_.teams()) {
      task.select(i);
      run(task);
    }
  }

  void run_piece(int thread, int64_t i) const {
    MemberTask task{{s_, a_.schedule, partition_.groups}, 1, panels_of_piece(i), {}, barriers_.team[0],
                    scratch_(thread, [this](Arena& own) { return scratch(own); })};
    task.select(i / parts_);
    run(task);
  }

  void pack_biases(int64_t piece) const {
    const Range panels = panels_of_piece(piece);
    for (int64_t p = panels.begin; p < panels.end; ++p) weights_[piece / parts_ / partition_.groups].pack_bias(p);
  }

 private:
  static constexpr int64_t piece_bytes = 256 << 10;
  Range panels_of_piece(int64_t i) const { return share(panels_, parts_, i % parts_); }

  Scratch scratch(Arena& arena) const {
    const int64_t own_panels = (panels_ + partition_.members - 1) / partition_.members;
    return {arena.take<const T*>(chunk_rows_), arena.take<const T*>(group_rows_), arena.take<T*>(group_rows_),
            arena.take<T*>(group_rows_),       arena.take<T*>(group_rows_),       arena.take<T*>(group_rows_),
            arena.take<T*>(group_rows_),       arena.take<T>(own_panels * chunk_rows_ * width),
            arena.take<T>((C::gated_products ? group_rows_ * own_panels : std::max(group_rows_, own_panels)) * width)};
  }

  // The recurrence.

  void run(MemberTask& task) const {
    start(task);
    for (int64_t begin = 0, end; begin < s_.T; begin = end) {
      end = begin + steps_within(chunk_rows_, s_.T - begin, [&](int64_t i) { return task.active_rows(task.time(begin + i)); });
      multiply_x(task, begin, end);
      int64_t row_of_chunk = 0;
      for (int64_t step = begin; step < end; ++step) {
        const int64_t t = task.time(step), n = task.active_rows(t);
        advance(task, t, n, row_of_chunk);
        row_of_chunk += n;
      }
    }
    finish(task);
  }

  // Every row at its initial state.
  void start(MemberTask& task) const {
    const Range own = own_units(task);
    for (int64_t i = 0; i < task.rows(); ++i) {
      const int64_t b = task.row(i), source = task.d * s_.B + a_.schedule.order[b];
      task.s.h_rows[i] = a_.h0 + source * s_.P;
      if (hidden_[task.d]) task.s.hidden_rows[i] = hidden_[task.d] + b * Hp_;
      if (!C::has_cell_state) continue;
      task.s.carry_rows[i] = carry_[task.d] + b * Hp_;
      const auto copy = [&](const T* c, T* to) {
        for (int64_t u = own.begin; u < own.end; u += V::lanes) load_upto(c + source * s_.H + u, s_.H - u).store(to + b * Hp_ + u);
      };
      copy(a_.c0, carry_[task.d]);
      if (a_.reset.mask.data) copy(a_.reset.c, reset_carry_[task.d]);
    }
  }

  // Gives their new state to those of the first n rows that start anew before step t.
  void reset_rows(const MemberTask& task, int64_t t, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) {
      const int64_t b = task.row(i);
      if (!a_.reset.at(a_.schedule, t, b)) continue;
      task.s.h_rows[i] = a_.reset.h + (task.d * s_.B + a_.schedule.order[b]) * s_.P;
      if (C::has_cell_state) task.s.carry_rows[i] = reset_carry_[task.d] + b * Hp_;
    }
  }

  void multiply_x(const MemberTask& task, int64_t begin, int64_t end) const {
    int64_t rows = 0;
    for (int64_t step = begin; step < end; ++step) {
      const int64_t t = task.time(step), n = task.active_rows(t);
      for (int64_t i = 0; i < n; ++i) task.s.x_rows[rows++] = a_.x.at(a_.schedule, t, task.row(i));
    }
    for (int64_t p = task.panels.begin; p < task.panels.end; ++p)
      weights_[task.d].multiply_w_ih(task.s.x_rows, rows, p, x_product(task, p, 0));
  }

  T* x_product(const MemberTask& task, int64_t p, int64_t row_of_chunk) const {
    return task.s.x_product + ((p - task.panels.begin) * chunk_rows_ + row_of_chunk) * width;
  }

  // One step of n rows, whose x products start at `row_of_chunk`.
  void advance(MemberTask& task, int64_t t, int64_t n, int64_t row_of_chunk) const {
    Scratch& s = task.s;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t token = task.d * s_.N + task.token(t, i);
      s.out_rows[i] = a_.out.at(a_.schedule, t, task.row(i)) + task.d * s_.P;
      if (a_.gates) s.gate_rows[i] = a_.gates + token * C::saved * Hp_;
      if (C::has_cell_state) s.next_carry_rows[i] = a_.cells ? a_.cells + token * Hp_ : carry_[task.d] + task.row(i) * Hp_;
    }
    if (a_.reset.mask.data) reset_rows(task, t, n);
    const bool back = cpu::walks_back(step_bytes_, t + a_.call_index);
    if constexpr (C::gated_products) advance_gated(task, n, row_of_chunk, back);
    else if (n == 1 && weights_[task.d].packed()) advance_row(task, row_of_chunk, back);
    else
      for_panels(task.panels, back, [&](int64_t p, int ahead) {
        weights_[task.d].multiply_w_hh(s.h_rows, n, p, s.h_product, ahead);
        const T* x = x_product(task, p, row_of_chunk);
        for_rows(n, [&](int64_t i, auto count) {
          apply_cell<count>(task, p, i, x + i * width, s.h_product + i * width, Gates::neighbouring_rows);
        });
      });
    if (C::has_cell_state && a_.c_out.data) copy_cells(task, t, n);
    meet(task);
    if (projected_) {
      for (int64_t p = task.state_panels.begin; p < task.state_panels.end; ++p)
        w_hr_[task.d].multiply(s.hidden_rows, n, whole_row(s_.H), p, Target<T>{nullptr, 0, s.out_rows, 0, s_.P});
      meet(task);
    }
    std::copy_n(s.out_rows, n, s.h_rows);
    if (C::has_cell_state) std::copy_n(s.next_carry_rows, n, s.carry_rows);
  }

  // This step's c, as the caller wants it. Not where the cell stores it: one more store there, taken or not, and gcc inlines less.
  void copy_cells(const MemberTask& task, int64_t t, int64_t n) const {
    const Range own = own_units(task);
    for (int64_t i = 0; i < n; ++i) {
      T* to = a_.c_out.at(a_.schedule, t, task.row(i)) + task.d * s_.H;
      std::copy(task.s.next_carry_rows[i] + own.begin, task.s.next_carry_rows[i] + own.end, to + own.begin);
    }
  }

  // A step of a single row: all its products first, for a panel's cells have no other row to run beside, but they have other panels. Not
  // where weights are read unpacked: arithmetic as dense as this lowers the core's clock, and a whole module call by 8%.
  void advance_row(MemberTask& task, int64_t row_of_chunk, bool back) const {
    const auto h_product = [&](int64_t p) { return task.s.h_product + (p - task.panels.begin) * width; };
    for_panels(task.panels, back, [&](int64_t p, int ahead) { weights_[task.d].multiply_w_hh(task.s.h_rows, 1, p, h_product(p), ahead); });
    const typename Gates::Neighbours neighbouring_panels{0, units, chunk_rows_ * width, width};
    const int64_t whole = std::min(task.panels.end, (s_.H - 1 + V::lanes) / units);  // panels without a vector past the last unit
    const auto apply = [&](int64_t i, auto count) {
      const int64_t p = task.panels.begin + i;
      apply_cell<count>(task, p, 0, x_product(task, p, row_of_chunk), h_product(p), neighbouring_panels);
    };
    for_rows(whole - task.panels.begin, apply);
    for_rows<1>(task.panels.size(), apply, std::max<int64_t>(0, whole - task.panels.begin));
  }

  // A cell whose last gates meet the gated state: all of that first.
  void advance_gated(MemberTask& task, int64_t n, int64_t row_of_chunk, bool back) const {
    const Gates& weights = weights_[task.d];
    const auto h_product = [&](int64_t p) { return task.s.h_product + (p - task.panels.begin) * group_rows_ * width; };
    for_panels(task.panels, back, [&](int64_t p, int ahead) {
      weights.multiply_w_hh(task.s.h_rows, n, p, h_product(p), ahead);
      for (int64_t i = 0; i < n; ++i)
        for (int64_t u = p * units; u < std::min((p + 1) * units, s_.H); u += V::lanes) {
          const auto carry = Several<V, 1>::of([&](int) { return previous(task.s, i, u); });
          const int64_t at = i * width;
          weights.template gated_state<1>(x_product(task, p, row_of_chunk) + at, h_product(p) + at, Gates::neighbouring_rows, u, carry)
              .part[0].store(task.s.hidden_rows[i] + u);
        }
    });
    meet(task);
    for_panels(task.panels, back, [&](int64_t p, int ahead) {
      weights.multiply_w_hh_gated(task.s.hidden_rows, n, p, h_product(p), ahead);
      const T* x = x_product(task, p, row_of_chunk);
      for_rows(n, [&](int64_t i, auto count) {
        apply_cell<count>(task, p, i, x + i * width, h_product(p) + i * width, Gates::neighbouring_rows);
      });
    });
  }

  // The units of panel p of row i, and those beside them: products and biases to gates to the new state.
  template <int count>
  RNNK_FN void apply_cell(const MemberTask& task, int64_t p, int64_t i, const T* x_product, const T* h_product,
                          const typename Gates::Neighbours& neighbours) const {
    using W = Several<V, count>;
    const Scratch& s = task.s;
    T* const* state_rows = projected_ ? s.hidden_rows : s.out_rows;
    for (int64_t first = p * units; first < std::min((p + 1) * units, s_.H); first += V::lanes) {
      const auto row = [&](int j) { return i + j * neighbours.row; };
      const auto unit = [&](int j) { return first + j * neighbours.unit; };
      const W carry = W::of([&](int j) { return previous(s, row(j), unit(j)); });
      const auto next = weights_[task.d].template run_cell<count>(x_product, h_product, neighbours, first, carry);
      W::for_each([&](int j) {
        const int64_t u = unit(j);
        store_upto(next.h.part[j], state_rows[row(j)] + u, s_.H - u);
        if (C::has_cell_state) next.carry.part[j].store(s.next_carry_rows[row(j)] + u);
        if (!a_.gates) return;
        for (int k = 0; k < C::saved; ++k) {
          T* to = s.gate_rows[row(j)] + k * Hp_ + u;
          if (streams_) stream(next.saved[k].part[j], to);
          else next.saved[k].part[j].store(to);
        }
      });
    }
  }

  // What the cell carries past the recurrent product: c, or h for a cell that blends it in.
  RNNK_FN V previous(const Scratch& s, int64_t i, int64_t u) const {
    if constexpr (C::has_cell_state) return V::load(s.carry_rows[i] + u);
    else if constexpr (C::blends_state) return load_upto(s.h_rows[i] + u, s_.H - u);
    else return V(0);
  }

  void finish(const MemberTask& task) const {
    if (streams_) end_streaming();
    const Range units = own_units(task), states = projected_ ? own_states(task) : units;
    for (int64_t i = 0; i < task.rows(); ++i) {
      const int64_t to = task.d * s_.B + a_.schedule.order[task.row(i)];
      std::copy(task.s.h_rows[i] + states.begin, task.s.h_rows[i] + states.end, a_.h_n + to * s_.P + states.begin);
      if (C::has_cell_state) std::copy(task.s.carry_rows[i] + units.begin, task.s.carry_rows[i] + units.end, a_.c_n + to * s_.H + units.begin);
    }
  }

  // What this member computes, and nobody else.
  Range own_units(const MemberTask& task) const { return {task.panels.begin * units, std::min(task.panels.end * units, s_.H)}; }
  Range own_states(const MemberTask& task) const {
    const int64_t width = w_hr_[0].width();
    return {task.state_panels.begin * width, std::min(task.state_panels.end * width, s_.P)};
  }

  void meet(const MemberTask& task) const { task.barrier.wait(task.members); }
};

template <class T, template <class> class CellOf>
struct Forward : ForwardLoop<T, CellOf, T> {
  Forward(const ForwardArgs<T>& args, const Partition& partition, void* workspace)
      : ForwardLoop<T, CellOf, T>(args, partition, workspace, packing(args.shape)) {}
  static Packing packing(const Shape& s) { return reads_unpacked(s.T, s.B) ? Packing::never : Packing::now; }
  static int64_t independent_panels(const ForwardArgs<T>& args) {
    return packing(args.shape) == Packing::never ? ForwardLoop<T, CellOf, T>::panels_of_step(args) : 0;
  }

  void operator()(int thread) const {
    this->pack(thread);
    this->wait_for_all();
    this->run(thread);
  }
  void operator()(int thread, int64_t piece) const {
    this->pack_biases(piece);
    this->run_piece(thread, piece);
  }
};

// The same in two parts, which share a workspace, with weights kept as S.
template <class S>
struct KeptAs {
  template <class T, template <class> class CellOf>
  struct Pack : ForwardLoop<T, CellOf, S> {
    Pack(const ForwardArgs<T>& args, const Partition& partition, void* workspace)
        : ForwardLoop<T, CellOf, S>(args, partition, workspace, Packing::now) {}
    static Packing packing(const Shape&) { return Packing::now; }
    static int64_t independent_panels(const ForwardArgs<T>&) { return 0; }
    void operator()(int thread) const { this->pack(thread); }
  };

  template <class T, template <class> class CellOf>
  struct Run : ForwardLoop<T, CellOf, S> {
    Run(const ForwardArgs<T>& args, const Partition& partition, void* workspace)
        : ForwardLoop<T, CellOf, S>(args, partition, workspace, Packing::before) {}
    static Packing packing(const Shape&) { return Packing::before; }
    static int64_t independent_panels(const ForwardArgs<T>& args) { return ForwardLoop<T, CellOf, S>::panels_of_step(args); }
    void operator()(int thread) const { this->run(thread); }
    void operator()(int thread, int64_t piece) const { this->run_piece(thread, piece); }
  };
};
