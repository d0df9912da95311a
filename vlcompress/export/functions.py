"""The packed layer as one ONNX node, and the model-local functions that let every runtime run it.

**The node.** Domain `vlcompress`, version 1, op type `BlockSparseLinear` or `BlockSparseLinear_<i>` with
1 <= i < MAX_BODIES. It computes Y = activation(X W^T + B (+ R)), where W [N, K] is stored by panels of h consecutive
outputs:

======  ==========================  ==============================================================================
input   type and shape              meaning
======  ==========================  ==============================================================================
X       float [..., K]              activations, any rank from 2 on
W       float [P[-1] * h]           panel p holds W[P[p]*h : P[p+1]*h]; entry j*h + r of it is the weight of output
                                    p*h + r for the input column I[P[p] + j] (a column's h weights are contiguous)
I       int32 [P[-1]]               kept columns of each panel, rising within a panel, 0 <= I < K
P       int64 [N/h + 1]             where each panel begins in I; strictly rising: no panel is empty (one that keeps
                                    nothing holds column 0 with zero weights)
B       float [N]                   bias, always there (zeros if the layer has none)
R       float [..., N], optional    residual, added before the activation; this exporter does not write it
======  ==========================  ==============================================================================

Attributes: N (int), K (int), h (int; a multiple of 16 that divides N), activation (string: "none", "gelu" (exact, with
erf), "gelu_tanh" or "relu"). W, I, P and B are always initialisers. Y is float [..., N].

**The bodies.** Each op type that a file uses has a model-local function of the same domain and name in that file, whose
body is standard operators. A runtime that registers no such operator inlines it: it slices W, I and P (constants, so
this is folded when the model is loaded) and runs row groups. A runtime with our library registered takes the native
kernel instead and ignores the body. A body fixes the structure (how many panels make a row group, how its columns are
gathered, rank of X, activation), so a file with several structures has several op types; the number in a name only tells
bodies apart, and a native library registers the same kernel under all MAX_BODIES names.

Function overloads would say the same with one op type, but they are not safe: onnxruntime 1.20 and onnx's reference
evaluator look functions up without the overload, and compute something else without a word (1.31.1 is right).
"""

DOMAIN = "vlcompress"
VERSION = 1
NAME = "BlockSparseLinear"

MAX_BODIES = 256
"""Op types that a native library registers: NAME, NAME_1 ... NAME_255."""

PANEL = 16
"""Panel heights are multiples of this: one AVX-512 register of float32 outputs."""
