"""The faults of the cells, the CPU kernels and the torch layer."""

from .mutant import Mutant

LSTM, GRU, GRU_BEFORE, RNN, ACTIVATIONS = (f"csrc/cells/{name}.h" for name in ("lstm", "gru", "gru_reset_before", "rnn", "activations"))
FORWARD, BACKWARD, CHUNK, GRADIENTS, GEMM, DIRECT, TRANSPOSE, TASK, SEVERAL, GATE_WEIGHTS, RECOMPUTE, TOKENS, SIMD, WALK = (
    f"csrc/cpu/{name}.h"
    for name in ("forward", "backward", "chunk", "gradients", "gemm", "direct", "transpose", "task", "several", "gate_weights", "recompute", "tokens",
                 "simd", "walk"))
PIECES = "csrc/cpu/pieces.cpp"
SCHEDULE, CHECKED, AUTOGRAD, MODULES, STEPPER = (
    f"csrc/torch/{name}.cpp" for name in ("schedule", "checked", "autograd", "module_reader", "stepper"))
DEVICE, PLAIN_CALL, MEMORY = (f"csrc/torch/{name}.h" for name in ("device", "plain_call", "memory"))
EAGER = "csrc/torch/eager.cpp"

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
    # The GRU's with the reset gate before the product.
    Mutant("GRU before: the gated state without r", GRU_BEFORE, "return sigmoid(x[0] + h[0] + b[0]) * carry;", "return carry;"),
    Mutant("GRU before: D(gated state) scaled by 1.001", GRU_BEFORE, "d_s * previous * (r * (one - r))",
           "V(1.001) * d_s * previous * (r * (one - r))"),
    Mutant("GRU before: D(h) past the gated state dropped", GRU_BEFORE, "fma(d_s, r, d_carry)", "d_carry"),
    Mutant("GRU before: W_hn's gradient with h", GRADIENTS, "tokens_.hidden(c, token); }, shape.P, to.w_hh + plain",
           "a_->h0 + 0 * token; }, shape.P, to.w_hh + plain"),
    Mutant("GRU before: no barrier between its two products", FORWARD, "    meet(task);\n    for_panels(task.panels, back,",
           "    for_panels(task.panels, back,"),
    Mutant("RNN: sigmoid' is y", RNN, "d * (y * (V(1) - y))", "d * y"),
    # States set anew.
    Mutant("reset: c is kept", FORWARD, "task.s.carry_rows[i] = reset_carry_[task.d] + b * Hp_;", ";"),
    Mutant("reset: the state of the first row for all", FORWARD, "a_.reset.h + (task.d * s_.B + a_.schedule.order[b]) * s_.P",
           "a_.reset.h + task.d * s_.B * s_.P"),
    Mutant("reset: the gradient goes on to the step before", BACKWARD, "        from[u] = T(0);\n", ""),
    Mutant("reset: one step late on the way back", BACKWARD, "d_reset(task, task.time(step + 1), n)",
           "d_reset(task, task.time(std::max<int64_t>(step, 0)), n)"),
    Mutant("reset: W_hh's gradient with the state that was dropped", TOKENS, "if (a.reset.at(a.schedule, t, b)) return a.reset.h + row * a.shape.P;",
           ""),
    # The c of every step.
    Mutant("cells: both directions in the first one's columns", FORWARD, "a_.c_out.at(a_.schedule, t, task.row(i)) + task.d * s_.H",
           "a_.c_out.at(a_.schedule, t, task.row(i)) + 0 * task.d"),
    Mutant("cells: those before the step", FORWARD, "std::copy(task.s.next_carry_rows[i] + own.begin, task.s.next_carry_rows[i] + own.end, to",
           "std::copy(task.s.carry_rows[i] + own.begin, task.s.carry_rows[i] + own.end, to"),
    Mutant("cells: their gradient replaces D(c) of the step after", BACKWARD, "carry[u] += d_c[u];", "carry[u] = d_c[u];"),
    Mutant("cells: their gradient one step late", BACKWARD, "add_d_cells(task, t, n);\n      if",
           "add_d_cells(task, task.time(std::max<int64_t>(step - 1, 0)), n);\n      if"),
    # The simple network's.
    Mutant("RNN: relu leaks", RNN, "select(a < V(0), V(0), a)", "select(a < V(0), V(0.001) * a, a)"),
    Mutant("RNN: relu's gradient ignores the sign", RNN, "select(y <= V(0), V(0), d)", "select(y <= V(0), d, d)"),
    Mutant("RNN: tanh' is 1 - y", RNN, "fma(V(0) - y, y, V(1))", "(V(1) - y)"),
    Mutant("exp: a float constant off in the fourth digit", ACTIVATIONS, "1.666654342426e-1", "1.6676665459e-1"),
    Mutant("exp: a double constant off in the third digit", ACTIVATIONS, "1. / 720,", "1. / 721,"),
    # The forward loop.
    Mutant("forward: the reverse direction runs forward", TASK, "return d == 0 ? step : shape.T - 1 - step", "return step"),
    Mutant("forward: the reverse direction has the other's weights", FORWARD, "Gates(arena, s_, args.weights[d], packing)",
           "Gates(arena, s_, args.weights[0], packing)"),
    Mutant("forward: a register holds the rows of the next units", GATE_WEIGHTS, "std::min(first + l, H_ - 1)", "std::min(first + l + 1, H_ - 1)"),
    Mutant("kept weights: the first thread packs nothing", FORWARD, "void operator()(int thread) const { this->pack(thread); }",
           "void operator()(int thread) const { if (thread > 0) this->pack(thread); }"),
    Mutant("kept weights: bfloat16 truncated", SIMD, "(bits + 0x7fff + (bits >> 16 & 1)) >> 16", "bits >> 16"),
    Mutant("forward: c stays at c0 when it is saved", FORWARD, "if (C::has_cell_state) std::copy_n(s.next_carry_rows,",
           "if (C::has_cell_state && !a_.cells) std::copy_n(s.next_carry_rows,"),
    Mutant("forward: saved gates of two rows exchanged", FORWARD, "T* to = s.gate_rows[row(j)] + k", "T* to = s.gate_rows[row(count - 1 - j)] + k"),
    Mutant("forward: all gates past the caches are the first one", FORWARD, "stream(next.saved[k].part[j], to)", "stream(next.saved[0].part[j], to)"),
    Mutant("forward: of two panels at once both take the first one's x products",
           FORWARD, "neighbouring_panels{0, units, chunk_rows_ * width, width}",
           "neighbouring_panels{0, units, 0, width}"),
    Mutant("forward: h_n in sorted order", FORWARD, "to = task.d * s_.B + a_.schedule.order[task.row(i)]", "to = task.d * s_.B + task.row(i)"),
    Mutant("forward: x products of ragged steps misplaced", FORWARD, "row_of_chunk += n;", "row_of_chunk += task.rows();"),
    Mutant("forward: no barrier after the cells", FORWARD, "    meet(task);\n    if (projected_) {", "    if (projected_) {"),
    Mutant("product: one row rounds unlike several", GEMM, "fma(broadcast, load(row + v * V::lanes), acc[0][v])",
           "broadcast * load(row + v * V::lanes) + acc[0][v]"),
    Mutant("product: a thin tile multiplies with its first row alone", GEMM, "accumulate(acc[m][v], broadcast[m], b)",
           "accumulate(acc[m][v], broadcast[0], b)"),
    Mutant("product: every other k takes the row of the one before it", GEMM, "multiply_row<fetch, stride>(a, k + i, panel + i * stride);",
           "multiply_row<fetch, stride>(a, k + i, panel + i / 2 * 2 * stride);"),
    Mutant("product: an odd last k is lost", GEMM, "for (; k < K; ++k, panel += stride) multiply_row<fetch, stride>(a, k, panel);", ""),
    Mutant("product: a block of several gates goes on in the first one's padding", GEMM, "a.advance(block.start[i] - block.start[i - 1], length);",
           "a.advance(length, length);"),
    Mutant("product: a later block of k replaces the sum", GEMM, "c.store = Store::add;", ""),
    Mutant("cells: the second row of two takes the first one's reciprocal", SEVERAL, "return recip(a.part[i]);", "return recip(a.part[0]);"),
    Mutant("product: unpacked weights summed in one chain", DIRECT, "const int64_t chain = chain_length(K), block = chains_of_block * chain;",
           "const int64_t chain = K + 16, block = chain;"),
    Mutant("product: unpacked weights add up chains one by one", DIRECT, "block = chains_of_block * chain;", "block = chain;"),
    Mutant("product: the second register of unpacked weights has the first one's rows", DIRECT, "load_columns(w[v].row, from, column[v])",
           "load_columns(w[0].row, from, column[v])"),
    Mutant("transpose: the last columns are the first", TRANSPOSE, "from.row[l][k + j] : T(0)", "from.row[l][j] : T(0)"),
    Mutant("walk: going back misses the first panel", WALK, "p-- > panels.begin;", "p-- > panels.begin + 1;"),
    Mutant("pieces: going back misses the first piece", PIECES, "s.pieces.end - 1 - n", "s.pieces.end - 1 - (n + 1 < s.pieces.size() ? n : 0)"),
    Mutant("pieces: a step's last panel is nobody's", FORWARD, "share(panels_, parts_, i % parts_)",
           "share(panels_ - (parts_ > 1), parts_, i % parts_)"),
    Mutant("pieces: the caller does not wait for helpers", PIECES, "    wait_for_helpers();\n", ""),
    Mutant("stepper: h read while it is written", STEPPER, "args.h0 = h_before.const_data_ptr<T>();", "args.h0 = layer[H0].const_data_ptr<T>();"),
    # The backward loop.
    Mutant("backward: the reverse direction runs forward",
           BACKWARD, "const int64_t t = task.time(step), n = task.active_rows(t);\n      d_state_after",
           "const int64_t t = step, n = task.active_rows(t);\n      d_state_after"),
    Mutant("backward: d_out of the first direction for both", BACKWARD, "a.d_out.at(a.schedule, t, b) + task.d * k.s_.P",
           "a.d_out.at(a.schedule, t, b)"),
    Mutant("backward: D(c) starts at a stale value", BACKWARD, ": V(0)).store(d_carry_", ": V(0.001)).store(d_carry_"),
    Mutant("backward: saved gates overwritten", BACKWARD, "d.carry.part[j].store(rows.carry[j] + u);\n      for",
           "d.carry.part[j].store(rows.carry[j] + u);\n      if (C::saved) d.slots[0].part[j].store(const_cast<T*>(rows.gates[j]) + u);\n      for"),
    Mutant("backward: a chunk starts from the first step of the last one", BACKWARD, "set_slot_rows(task, task.before, task.time(chunk.end))",
           "set_slot_rows(task, task.before, task.time(task.before.end - 1))"),
    Mutant("backward: a chunk misses its last token", CHUNK, "schedule.active[t1] - c.first_token;",
           "schedule.active[t1] - c.first_token - (c.begin > 0);"),
    Mutant("backward: d_h0 without what passed W_hh", BACKWARD, "C::blends_state ? d_h[u] + carry[u] : d_h[u]", "d_h[u]"),
    Mutant("backward: d_c0 in sorted order", BACKWARD, "a_.d_c0 + to * s_.H", "a_.d_c0 + (task.d * s_.B + b) * s_.H"),
    # Weight and input gradients.
    Mutant("gradients: every weight gradient counted twice", GEMM, "panel, c, 0, valid);",
           "panel, c, 0, valid);\n  Target<T> again = c;\n  again.store = Store::add;\n"
           "  tile_product<MR, NV, NV, fetch>(PackedA<T, MR>{a}, block, panel, again, 0, valid);"),
    Mutant("gradients: the tiles of a packed block overlap", GEMM, "return K * MR + Vec<T>::lanes; }", "return K * MR; }"),
    Mutant("gradients: the rest of a large step dropped", GRADIENTS, "begin == 0 || begin < c.tokens; begin +=",
           "begin == 0 || begin + chunk_tokens <= c.tokens; begin +="),
    Mutant("gradients: a later chunk replaces the sum", GRADIENTS, "begin == 0 && is_first(c) ? Store::overwrite", "begin == 0 ? Store::overwrite"),
    Mutant("gradients: a bias keeps the last chunk's sum", GRADIENTS, "is_first(c) ? sum : load_upto", "true ? sum : load_upto"),
    Mutant("gradients: d_x of the second direction only", GRADIENTS, "store_upto(second ? product", "store_upto(false ? product"),
    Mutant("gradients: d_x added one step too late", GRADIENTS, "at.t >= chunks[0].begin)", "at.t > chunks[0].begin)"),
    Mutant("tokens: h0 in sorted order", TOKENS, "return a.h0 + row * a.shape.P;", "return a.h0 + (d * a.shape.B + b) * a.shape.P;"),
    Mutant("tokens: reverse W_hh reads padding", TOKENS, "t + 1 < a.shape.T && b < a.schedule.active[t + 1] ? t + 1", "t + 1 < a.shape.T ? t + 1"),
    Mutant("gradients: W_hh's with the state after the step", GRADIENTS, "return state_before(*a_, c.d, at.t, at.b);",
           "return a_->out.at(a_->schedule, at.t, at.b) + c.d * a_->shape.P;"),
    Mutant("gradients: bias sum misses a token of each chunk", GRADIENTS, "for (int64_t token = begin; token < end",
           "for (int64_t token = begin + 1; token < end"),
    # Lengths and the torch side.
    Mutant("lengths: off by one", SCHEDULE, "if (length[b] > 0) ++active()[length[b] - 1]", "if (length[b] > 1) ++active()[length[b] - 2]"),
    Mutant("lengths: the inverse order", SCHEDULE, "  for (int64_t t = T - 2;", INVERSE_ORDER),
    Mutant("layer: weights kept by address", CHECKED, "if (layer[k].defined()) arguments[k] = layer[k].contiguous();", STALE_WEIGHTS),
    Mutant("layer: d_c_n ignored", DEVICE, "point(args.d_c_n, pass.d_c_n);", "args.d_c_n = nullptr;"),
    Mutant("memory: nobody asks whether a storage was freed", MEMORY, "TORCH_CHECK(needed <=", "TORCH_CHECK(true || needed <="),
    Mutant("autograd: a wanted gradient skipped", AUTOGRAD, "ctx->needs_input_grad(edge++)) needs |=",
           "ctx->needs_input_grad(edge++) && k != H0) needs |="),
    Mutant("autograd: the node forgets that gates were not kept", AUTOGRAD, "manifest.recompute, /*with_cells", "false, /*with_cells"),
    Mutant("autograd: lengths are not saved", AUTOGRAD, "add(layer.lengths)", "add(Tensor())"),
    Mutant("autograd: tensors that are not there are not counted", AUTOGRAD,
           "manifest.present |= int64_t(1) << k;\n      ++k;", "manifest.present |= int64_t(1) << k++;"),
    Mutant("recompute: h of the chunk's first tokens for all", RECOMPUTE, "s.h_rows + first, n, p, s.h_product);\n    if constexpr",
           "s.h_rows, n, p, s.h_product);\n    if constexpr"),
    Mutant("recompute: gates of two rows exchanged", RECOMPUTE, "store(s.gate_rows[first + i + j] + k * Hp + u)",
           "store(s.gate_rows[first + i + count - 1 - j] + k * Hp + u)"),
    Mutant("recompute: no barrier before the loop",
           BACKWARD, "recompute_(thread, chunks, tokens_, *barriers_.all);\n        barriers_.all->wait(partition_.threads);",
           "recompute_(thread, chunks, tokens_, *barriers_.all);"),
    Mutant("stepper: the output of the step before", STEPPER, "for (const auto& layer : layers_) layer->step(threads);\n    copy_rows(top",
           "copy_rows(top"),
    Mutant("stepper: the first row of x for all", STEPPER, "from[i * from_stride + j]", "from[j]"),
    Mutant("weight_dtype: not rounded", PLAIN_CALL, "layer.rounds_weights = true;", ""),
    Mutant("modules: weights of several models are taken", EAGER, "!are_of_one_model(weights, o) || ", ""),
    Mutant("modules: every layer starts from the first one's state", MODULES, "states[k].narrow(0, l * D, D)", "states[k].narrow(0, 0, D)"),
    Mutant("modules: both directions with the same weights", MODULES, "&weights[(l * D + d) * per_direction]", "&weights[l * D * per_direction]"),
]
