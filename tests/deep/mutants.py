"""The faults that the fast tests must see: each an exact replacement in a source file, which must find its text exactly once.

A fault changes one thing a person could get wrong and keeps the code compiling. When the code changes and a text is gone,
mutate.py says so and fails: rewrite the mutant, do not drop it.
"""

from dataclasses import dataclass

LSTM, GRU, RNN, ACTIVATIONS = (f"csrc/cells/{name}.h" for name in ("lstm", "gru", "rnn", "activations"))
FORWARD, BACKWARD, CHUNK, GRADIENTS, GEMM, DIRECT, TASK, SEVERAL, GATE_WEIGHTS, RECOMPUTE, TOKENS, SIMD, WALK = (
    f"csrc/cpu/{name}.h"
    for name in ("forward", "backward", "chunk", "gradients", "gemm", "direct", "task", "several", "gate_weights", "recompute", "tokens", "simd", "walk"))
PIECES = "csrc/cpu/pieces.cpp"
SCHEDULE, CHECKED, LAYER, AUTOGRAD, MODULES, STEPPER = (
    f"csrc/torch/{name}.cpp" for name in ("schedule", "checked", "layer", "autograd", "module_reader", "stepper"))
CUDA_FORWARD, CUDA_BACKWARD, CUDA_GATHER, CUDA_COLUMNS, CUDA_RECOMPUTE = (
    f"csrc/cuda/{name}.cu" for name in ("forward", "backward", "gather", "columns", "recompute"))
CUDA_CELLS, CUDA_STEPS, CUDA_QUEUE, CUDA_CONVERT, CUDA_GRADIENTS = (
    f"csrc/cuda/{name}.h" for name in ("cells", "steps", "queue", "convert", "gradients"))


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    old: str
    new: str


STALE_WEIGHTS = """if (layer[k].defined() && k == W_HH) {
        static std::vector<std::pair<const void*, Tensor>> packed;
        for (const auto& [address, copy] : packed)
          if (address == layer[k].const_data_ptr() && copy.sizes() == layer[k].sizes() && copy.dtype() == layer[k].dtype()) arguments[k] = copy;
        if (!arguments[k].defined()) packed.emplace_back(layer[k].const_data_ptr(), arguments[k] = layer[k].clone().contiguous());
      } else if (layer[k].defined()) arguments[k] = layer[k].contiguous();"""

INVERSE_ORDER = """  const std::vector<int64_t> sorted(order(), order() + B);
  for (int64_t b = 0; b < B; ++b) order()[sorted[b]] = b;
  for (int64_t t = T - 2;"""

MUTANTS = [
    # The LSTM's equations.
    Mutant("LSTM: input and forget gate swapped", LSTM, "i = sigmoid(x[0] + h[0] + b[0]), f = sigmoid(x[1] + h[1] + b[1])",
           "f = sigmoid(x[0] + h[0] + b[0]), i = sigmoid(x[1] + h[1] + b[1])"),
    Mutant("LSTM: h' scaled by 1.001", LSTM, "return {o * tanh(c), c,", "return {V(1.001) * o * tanh(c), c,"),
    Mutant("LSTM: b_hh dropped", LSTM, "b[g] = b_ih(g) + b_hh(g)", "b[g] = b_ih(g) + S(0) * b_hh(g)"),
    Mutant("LSTM: output gate's gradient scaled by 1.001", LSTM, "d_h * t * (o * (one - o))", "V(1.001) * d_h * t * (o * (one - o))"),
    Mutant("LSTM: D(c) from the next step dropped", LSTM, "fma(V(0) - t, t, one), d_carry)", "fma(V(0) - t, t, one), V(0) * d_carry)"),
    Mutant("LSTM: projection's h' without tanh", LSTM, "return saved[3] * tanh(state)", "return saved[3] * state"),
    # The GRU's.
    Mutant("GRU: reset and update gate swapped", GRU, "r = sigmoid(x[0] + h[0] + b[0]), z = sigmoid(x[1] + h[1] + b[1])",
           "z = sigmoid(x[0] + h[0] + b[0]), r = sigmoid(x[1] + h[1] + b[1])"),
    Mutant("GRU: b_hn outside the reset gate", GRU, "b[2] = b_ih(2);\n    b[3] = b_hh(2);", "b[2] = b_ih(2) + b_hh(2);\n    b[3] = S(0);"),
    Mutant("GRU: h enters h' late by a factor 0.999", GRU, "fma(z, carry - n, n)", "fma(z, V(0.999) * carry - n, n)"),
    Mutant("GRU: gradients of n's two products exchanged", GRU, "hidden_slots[] = {0, 1, 3}", "hidden_slots[] = {0, 1, 2}"),
    Mutant("GRU: D(z) with n for h", GRU, "d * (previous - n)", "d * (n - n)"),
    Mutant("GRU: D(h) past W_hh dropped", GRU, "d_a * r}, d * z}", "d_a * r}, V(0) * d * z}"),
    # The simple network's.
    Mutant("RNN: relu leaks", RNN, "select(a < V(0), V(0), a)", "select(a < V(0), V(0.001) * a, a)"),
    Mutant("RNN: relu's gradient ignores the sign", RNN, "select(y <= V(0), V(0), d)", "select(y <= V(0), d, d)"),
    Mutant("RNN: tanh' is 1 - y", RNN, "fma(V(0) - y, y, V(1))", "(V(1) - y)"),
    Mutant("exp: a float constant off in the fourth digit", ACTIVATIONS, "1.6666665459e-1", "1.6676665459e-1"),
    Mutant("exp: a double constant off in the third digit", ACTIVATIONS, "1. / 720,", "1. / 721,"),
    # The forward loop.
    Mutant("forward: the reverse direction runs forward", TASK, "return d == 0 ? step : shape.T - 1 - step", "return step"),
    Mutant("forward: the reverse direction has the other's weights", FORWARD, "Gates(arena, s_, args.weights[d], packing)",
           "Gates(arena, s_, args.weights[0], packing)"),
    Mutant("forward: a register holds the rows of the next units", GATE_WEIGHTS, "std::min(first + l, H_ - 1)", "std::min(first + l + 1, H_ - 1)"),
    Mutant("kept weights: the first thread packs nothing", FORWARD, "void operator()(int thread) const { this->pack(thread); }",
           "void operator()(int thread) const { if (thread > 0) this->pack(thread); }"),
    Mutant("kept weights: bfloat16 truncated", SIMD, "(bits + 0x7fff + (bits >> 16 & 1)) >> 16", "bits >> 16"),
    Mutant("forward: c stays at c0 when it is saved", FORWARD, "if (C::has_cell_state) std::copy_n(s.next_carry_rows,", "if (C::has_cell_state && !a_.cells) std::copy_n(s.next_carry_rows,"),
    Mutant("forward: saved gates of two rows exchanged", FORWARD, "store(s.gate_rows[row(j)] + k * Hp_ + u)",
           "store(s.gate_rows[row(count - 1 - j)] + k * Hp_ + u)"),
    Mutant("forward: of two panels at once both take the first one's x products", FORWARD, "panels_beside{0, units, chunk_rows_ * width, width}",
           "panels_beside{0, units, 0, width}"),
    Mutant("forward: h_n in sorted order", FORWARD, "to = task.d * s_.B + a_.schedule.order[task.row(i)]", "to = task.d * s_.B + task.row(i)"),
    Mutant("forward: x products of ragged steps misplaced", FORWARD, "row_of_chunk += n;", "row_of_chunk += task.rows();"),
    Mutant("forward: no barrier after the cells", FORWARD, "    meet(task);\n    if (projected_) {", "    if (projected_) {"),
    Mutant("product: one row rounds unlike several", GEMM, "acc[m][v] = fma(broadcast, b[v], acc[m][v])",
           "acc[m][v] = MR == 1 ? broadcast * b[v] + acc[m][v] : fma(broadcast, b[v], acc[m][v])"),
    Mutant("product: a later block of k replaces the sum", GEMM, "c.store = Store::add;", ""),
    Mutant("cells: the second row of two takes the first one's reciprocal", SEVERAL, "return recip(a.part[i]);", "return recip(a.part[0]);"),
    Mutant("product: unpacked weights summed in one chain", DIRECT, "const int64_t chain = chain_length(K);", "const int64_t chain = K + 16;"),
    Mutant("walk: going back misses the first panel", WALK, "p-- > panels.begin;", "p-- > panels.begin + 1;"),
    Mutant("pieces: going back misses the first piece", PIECES, "s.pieces.end - 1 - n", "s.pieces.end - 1 - (n + 1 < s.pieces.size() ? n : 0)"),
    Mutant("pieces: a step's last panel is nobody's", FORWARD, "share(panels_, parts_, i % parts_)", "share(panels_ - (parts_ > 1), parts_, i % parts_)"),
    Mutant("pieces: the caller does not wait for helpers", PIECES, "door_.load(std::memory_order_acquire) != 0;) pause(spin++);", "spin < 0;) pause(spin++);"),
    Mutant("stepper: h read while it is written", STEPPER, "args.h0 = h_before.const_data_ptr<T>();", "args.h0 = layer[H0].const_data_ptr<T>();"),
    # The backward loop.
    Mutant("backward: the reverse direction runs forward", BACKWARD, "const int64_t t = task.time(step), n = task.active_rows(t);\n      multiply_w_hh",
           "const int64_t t = step, n = task.active_rows(t);\n      multiply_w_hh"),
    Mutant("backward: d_out of the first direction for both", BACKWARD, "a.d_out.at(a.schedule, t, b) + task.d * k.s_.P", "a.d_out.at(a.schedule, t, b)"),
    Mutant("backward: D(c) starts at a stale value", BACKWARD, ": V(0)).store(d_carry_", ": V(0.001)).store(d_carry_"),
    Mutant("backward: saved gates overwritten", BACKWARD, "d.carry.part[j].store(rows.carry[j] + u);",
           "d.carry.part[j].store(rows.carry[j] + u);\n      if (C::saved) d.slots[0].part[j].store(const_cast<T*>(rows.gates[j]) + u);"),
    Mutant("backward: a chunk starts from the first step of the last one", BACKWARD, "set_slot_rows(task, task.before, task.time(chunk.end))",
           "set_slot_rows(task, task.before, task.time(task.before.end - 1))"),
    Mutant("backward: a chunk misses its last token", CHUNK, "schedule.active[t1] - c.first_token;", "schedule.active[t1] - c.first_token - (c.begin > 0);"),
    Mutant("backward: d_h0 without what passed W_hh", BACKWARD, "C::blends_state ? d_h[u] + carry[u] : d_h[u]", "d_h[u]"),
    Mutant("backward: d_c0 in sorted order", BACKWARD, "a_.d_c0 + to * s_.H", "a_.d_c0 + (task.d * s_.B + b) * s_.H"),
    # Weight and input gradients.
    Mutant("gradients: every weight gradient counted twice", GEMM, "panel, c, 0, valid);",
           "panel, c, 0, valid);\n  Target<T> again = c;\n  again.store = Store::add;\n"
           "  tile_product<MR, NV, true>(ColumnsOfA<T, MR>{a, stride}, K, chain_length(K), panel, again, 0, valid);"),
    Mutant("gradients: the rest of a large step dropped", GRADIENTS, "begin == 0 || begin < c.tokens; begin +=", "begin == 0 || begin + chunk_tokens <= c.tokens; begin +="),
    Mutant("gradients: a later chunk replaces the sum", GRADIENTS, "begin == 0 && is_first(c) ? Store::overwrite", "begin == 0 ? Store::overwrite"),
    Mutant("gradients: a bias keeps the last chunk's sum", GRADIENTS, "is_first(c) ? sum : load_upto", "true ? sum : load_upto"),
    Mutant("gradients: d_x of the second direction only", GRADIENTS, "store_upto(second ? product", "store_upto(false ? product"),
    Mutant("gradients: d_x added one step too late", GRADIENTS, "at.t >= chunks[0].begin)", "at.t > chunks[0].begin)"),
    Mutant("tokens: h0 in sorted order", TOKENS, "return a.h0 + (d * a.shape.B + a.schedule.order[b])", "return a.h0 + (d * a.shape.B + b)"),
    Mutant("tokens: reverse W_hh reads padding", TOKENS, "t + 1 < a.shape.T && b < a.schedule.active[t + 1] ? t + 1", "t + 1 < a.shape.T ? t + 1"),
    Mutant("gradients: W_hh's with the state after the step", GRADIENTS, "return state_before(*a_, c.d, at.t, at.b);",
           "return a_->out.at(a_->schedule, at.t, at.b) + c.d * a_->shape.P;"),
    Mutant("gradients: bias sum misses a token of each chunk", GRADIENTS, "for (int64_t token = begin; token < end", "for (int64_t token = begin + 1; token < end"),
    # Lengths and the torch side.
    Mutant("lengths: off by one", SCHEDULE, "if (length[b] > 0) ++active()[length[b] - 1]", "if (length[b] > 1) ++active()[length[b] - 2]"),
    Mutant("lengths: the inverse order", SCHEDULE, "  for (int64_t t = T - 2;", INVERSE_ORDER),
    Mutant("layer: weights kept by address", CHECKED, "if (layer[k].defined()) arguments[k] = layer[k].contiguous();", STALE_WEIGHTS),
    Mutant("layer: d_c_n ignored", LAYER, "args.d_c_n = input_or_null<T>(d_c_n);", "args.d_c_n = nullptr;"),
    Mutant("autograd: a wanted gradient skipped", AUTOGRAD, "ctx->needs_input_grad(edge++)) needs |=", "ctx->needs_input_grad(edge++) && k != H0) needs |="),
    Mutant("recompute: h of the chunk's first tokens for all", RECOMPUTE, "s.h_rows + first, n, p, s.h_product", "s.h_rows, n, p, s.h_product"),
    Mutant("recompute: gates of two rows exchanged", RECOMPUTE, "store(s.gate_rows[first + i + j] + k * Hp + u)",
           "store(s.gate_rows[first + i + count - 1 - j] + k * Hp + u)"),
    Mutant("recompute: no barrier before the loop", BACKWARD, "recompute_(thread, chunks);\n        barriers_.all->wait(partition_.threads);",
           "recompute_(thread, chunks);"),
    Mutant("stepper: the output of the step before", STEPPER, "for (const auto& layer : layers_) layer->step(threads);\n    copy_rows(top",
           "copy_rows(top"),
    Mutant("stepper: the first row of x for all", STEPPER, "from[i * from_stride + j]", "from[j]"),
    Mutant("modules: every layer starts from the first one's state", MODULES, "states[k].narrow(0, l * D, D)", "states[k].narrow(0, 0, D)"),
    Mutant("modules: both directions with the same weights", MODULES, "&weights[(l * D + d) * per_direction]", "&weights[l * D * per_direction]"),
    # The CUDA layers: only tests/test_cuda_layers.py runs.
    Mutant("cuda: b_hh dropped", CUDA_CELLS, "C::merge_biases(of(w.b_ih), of(w.b_hh), merged);",
           "C::merge_biases(of(w.b_ih), of(static_cast<const T*>(nullptr)), merged);"),
    Mutant("cuda: gates in the other order", CUDA_CELLS, "gates[g] = row[g * H + u];",
           "gates[g] = row[(C::gates - 1 - g) * H + u];"),
    Mutant("cuda: lengths off by one", CUDA_STEPS, "m.time < lengths[row]", "m.time <= lengths[row]"),
    Mutant("cuda: the reverse direction runs forward", CUDA_STEPS, "return d ? shape_.T - 1 - step : step;",
           "return d ? step : step;"),
    Mutant("cuda: a chunk misses its last step's tokens", CUDA_STEPS, "last.first + last.active - first.first",
           "last.first - first.first"),
    Mutant("cuda: a failure does not end the call", CUDA_QUEUE, "    if (error_ == cudaSuccess)\n      error_ =",
           "    error_ ="),
    Mutant("cuda: rows beyond a grid's limit are left out", CUDA_QUEUE, "row += int64_t(gridDim.y) * blockDim.y",
           "row = rows"),
    Mutant("cuda: both directions have the first one's W_hh", CUDA_CONVERT, "convert(queue, matrices_[d],",
           "convert(queue, matrices_[0],"),
    Mutant("cuda forward: out past a row's length is not zeroed", CUDA_FORWARD, "      if (out) *out = narrow<T>(0);\n",
           ""),
    Mutant("cuda forward: the state stays at h0", CUDA_FORWARD, "if (out) a.h_n[state * s.P + u] = *out = hidden;",
           "if (out) *out = hidden;"),
    Mutant("cuda forward: c rounded at every step", CUDA_FORWARD, "a.cells[saved * k.Hp + u] = next.carry;",
           "a.cells[saved * k.Hp + u] = widen(narrow<T>(next.carry));"),
    Mutant("cuda forward: c_n of the longest rows only", CUDA_FORWARD,
           "if (!runs(step.after, a.steps.lengths, row)) a.c_n", "if (step.after.active == 0) a.c_n"),
    Mutant("cuda forward: both directions take the first one's x products", CUDA_FORWARD,
           "x_products_ + (d * chunk_tokens_ +", "x_products_ + (0 * chunk_tokens_ +"),
    Mutant("cuda forward: the bias of the first direction for both", CUDA_FORWARD, "load_biases<C>(a.weights[d]",
           "load_biases<C>(a.weights[0 * d]"),
    Mutant("cuda forward: gates saved by row", CUDA_FORWARD, "saved = d * s.N + token;", "saved = d * s.N + row;"),
    Mutant("cuda forward: with a projection the state of ended rows goes on", CUDA_FORWARD,
           "if (runs(step.now, a.steps.lengths, row)) a.h_n", "if (step.now.active) a.h_n"),
    Mutant("cuda backward: d_out of the first direction for both", CUDA_BACKWARD,
           "a.d_out[((step.now.first + row) * s.D + d) * s.P + u]", "a.d_out[(step.now.first + row) * s.D * s.P + u]"),
    Mutant("cuda backward: rows do not begin at d_h_n", CUDA_BACKWARD,
           "from_after(runs(step.after, a.steps.lengths, row), k.d_h,", "from_after(step.after.active > 0, k.d_h,"),
    Mutant("cuda backward: d_h0 is taken when all rows have ended", CUDA_BACKWARD,
           "if (!a.d_h0 || !runs(k.steps[d].after", "if (!a.d_h0 || k.steps[d].now.active || !runs(k.steps[d].after"),
    Mutant("cuda backward: d_h0 without what passed W_hh", CUDA_BACKWARD,
           "blends_state ? k.d_h[at] + k.d_carry[at] : k.d_h[at]", "k.d_h[at]"),
    Mutant("cuda backward: c and h after the step for those before", CUDA_BACKWARD,
           "const Moment& before = k.steps[d].before;", "const Moment& before = k.steps[d].now;"),
    Mutant("cuda backward: slots that meet x and h exchanged", CUDA_BACKWARD,
           "tokens.slots[at] = narrow<T>(slots[meets_x.value]);",
           "tokens.slots[at] = narrow<T>(slots[splits_slots<C> ? meets_h.value : meets_x.value]);"),
    Mutant("cuda backward: padding keeps the slots of an earlier chunk", CUDA_BACKWARD,
           "      store_slots<T, C>(k.tokens, k.token_row[d] + row, H, u, zeros);\n", "      (void)zeros;\n"),
    Mutant("cuda backward: padding keeps D(state)", CUDA_BACKWARD, "if (row < step.now.active) *to = narrow<T>(0);", ""),
    Mutant("cuda backward: padding keeps o * tanh(c)", CUDA_BACKWARD,
           "if (k.tokens.hidden) k.tokens.hidden[(k.token_row[d] + row) * H + u] = narrow<T>(0);", ""),
    Mutant("cuda backward: d_h0 of rows without steps is not written", CUDA_BACKWARD,
           "else a.d_h0[state] = narrow<T>(from_after(false, k.d_h, a.d_h_n, state));", "else (void)state;"),
    Mutant("cuda backward: d_c0 of rows without steps", CUDA_BACKWARD, "from_after(ran, k.d_carry,",
           "from_after(true, k.d_carry,"),
    Mutant("cuda backward: saved gates overwritten", CUDA_BACKWARD, "k.d_carry[at] = gradients.carry;",
           "k.d_carry[at] = gradients.carry, const_cast<T*>(k.gates)[(k.gates_row[d] + row) * C::saved * k.Hp + u] = narrow<T>(0);"),
    Mutant("cuda backward: a step's rows in the chunk by the first direction's time", CUDA_BACKWARD,
           "d * tokens_.capacity + timeline_.row_of_chunk(d, c, i)",
           "d * tokens_.capacity + timeline_.row_of_chunk(0, c, i)"),
    Mutant("cuda backward: fewer rows than the other direction needs", CUDA_BACKWARD,
           "rows = std::max(rows, k.steps[d].now.active);\n      finished",
           "rows = k.steps[d].now.active;\n      finished"),
    Mutant("cuda gather: the reverse direction's state of the step after", CUDA_GATHER, "to, d ? 1 : -1}",
           "to, d ? -1 : -1}"),
    Mutant("cuda gather: no h0", CUDA_GATHER, "else if (runs(now, k.lengths, row)) state = k.h0[row * k.P + u];", ""),
    Mutant("cuda gather: h0 of rows without steps", CUDA_GATHER, "else if (runs(now, k.lengths, row)) state",
           "else state"),
    Mutant("cuda gather: a second table overwrites the first one's tokens", CUDA_GATHER,
           "(timeline.tokens(part).first - timeline.tokens(times).first) * s.P", "0 * timeline.tokens(part).first"),
    Mutant("cuda gather: x's padding passes", CUDA_GATHER, "to[i * I + u] = runs ? ", "to[i * I + u] = runs || true ? "),
    Mutant("cuda gradients: d_x of the second direction only", CUDA_GRADIENTS, "const bool second = s_.D == 2 &&",
           "const bool second = s_.D == 3 &&"),
    Mutant("cuda gradients: the directions meet one step later", CUDA_GRADIENTS,
           "std::clamp(d ? c.begin : s_.T - c.end,", "std::clamp(d ? c.begin + 1 : s_.T - c.end,"),
    Mutant("cuda gradients: a later chunk replaces the sum", CUDA_GRADIENTS, "Result<T>{result_, n_, 0, !first}",
           "Result<T>{result_, n_, 0, false && first}"),
    Mutant("cuda gradients: a later chunk replaces a 16-bit weight's sum", CUDA_GRADIENTS,
           "Result<Wide<T>>{sum_, n_, 0, !first}", "Result<Wide<T>>{sum_, n_, 0, false && first}"),
    Mutant("cuda gradients: 16-bit sums of several chunks are not stored", CUDA_GRADIENTS,
           "if (sum_) convert(queue, sum_, result_, m_ * n_);",
           "if (sum_ && !result_) convert(queue, sum_, result_, m_ * n_);"),
    Mutant("cuda columns: one thread's sum is left out", CUDA_COLUMNS, "for (int i = 1; i < block_rows; ++i) sum",
           "for (int i = 2; i < block_rows; ++i) sum"),
    Mutant("cuda columns: no barrier", CUDA_COLUMNS, "  __syncthreads();\n", ""),
    Mutant("cuda columns: a bias keeps the last chunk's sum", CUDA_COLUMNS, "to = first ? sum : to + sum;",
           "to = first ? sum : sum;"),
    Mutant("cuda columns: the first part only", CUDA_COLUMNS, "for (int p = 0; p < parts; ++p)",
           "for (int p = 0; p < 1 + 0 * parts; ++p)"),
    Mutant("cuda recompute: both directions' gates in one place", CUDA_RECOMPUTE, "gates_ + d * capacity_ *",
           "gates_ + 0 * d * capacity_ *"),
    Mutant("cuda recompute: W_hh of the first direction for both", CUDA_RECOMPUTE,
           "const Weights<T>& w = args.weights[d];", "const Weights<T>& w = args.weights[0 * d];"),
]
