"""The graph of a ``.pt2`` archive, looked at before torch makes Python of it.

``torch.export.load`` evaluates expressions of sizes (by sympy, that is by ``eval``), finds functions by their names
anywhere in torch, imports the modules that a tree of outputs names, and writes names of a graph into the source of a
function. So each string of a graph must be what an exported network needs there: an operator that only computes, an
expression of sizes, a name.
"""

import ast
import json
import keyword
import re
from typing import Any

import torch

# Known to compute only: torch's core operators, but for those that read memory as it lies or are for training; and
# others that networks of images are traced to. Beyond them torch has operators that read and write files.
NOT_CORE = frozenset({"as_strided", "empty", "empty_strided", "resize_", "_embedding_bag", "_local_scalar_dense"})
MORE = frozenset(
    """
    _assert_scalar _assert_tensor_metadata _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d addcdiv addcmul addmv all alpha_dropout argsort baddbmm batch_norm bernoulli broadcast_to
    celu channel_shuffle chunk clamp_max clamp_min clip contiguous conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d cosine_similarity count_nonzero cross cumprod detach diag dot dropout einsum expand_as
    feature_dropout fft_fft2 fft_fftshift fft_ifft2 fft_ifftshift fft_irfft2 fft_rfft2 flatten floor_divide glu
    grid_sampler group_norm hann_window hardshrink hardsigmoid hardswish hardtanh im2col index_add instance_norm
    isfinite layer_norm lerp lift_fresh_copy linalg_norm linalg_vector_norm linear linspace log_sigmoid log_softmax
    logsumexp masked_fill matmul max_pool1d max_pool2d meshgrid mish movedim mse_loss mv nan_to_num narrow
    native_channel_shuffle new_full new_ones new_zeros norm numpy_T one_hot ones ones_like outer pad pixel_shuffle
    pixel_unshuffle prelu relu6 repeat_interleave reshape rms_norm roll rrelu rsub scaled_dot_product_attention selu
    silu softmax softplus softshrink split square stack std sum_to_size swapaxes t tensor_split threshold tile to
    transpose tril triu true_divide type_as unbind unflatten unfold unsafe_chunk unsafe_split upsample_bicubic2d
    var_mean view_as where zeros zeros_like
    """.split()  # noqa: SIM905
)
SCALAR = re.compile(
    r"_operator\.(add|sub|mul|neg|floordiv|truediv|mod|eq|ne|le|lt|ge|gt|and_|or_|getitem)|math\.trunc"
    r"|torch\.sym_(int|float|max|min|not|ite|sqrt)"
)
ATEN = re.compile(r"torch\.ops\.aten\.([A-Za-z]\w*|_[A-Za-z]\w*)\.(\w+)")
# Of what sizes are made, as torch writes it: Mul(Integer(3), Symbol('s0', positive=True, integer=True)).
FUNCTIONS = frozenset(
    """
    Symbol Integer Rational Float Add Mul Max Min FloorDiv CeilDiv CleanDiv Mod PythonMod ModularIndexing Where
    IntTrueDiv FloatTrueDiv ToFloat TruncToInt FloorToInt CeilToInt Equality Unequality GreaterThan LessThan
    StrictGreaterThan StrictLessThan And Or Not
    """.split()  # noqa: SIM905
)
SYMBOL = re.compile(r"[a-z]{1,4}\d+")
PARTS_OF_EXPRESSIONS = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.UnaryOp, ast.USub)
WORD = re.compile(r"[\w.+-]*")
PATH = re.compile(r"[^\"'\\\x00-\x1f\x7f]*")  # in Python source torch puts double quotes around it
PATHS = ("parameter_name", "buffer_name", "tensor_constant_name")
NAMES = ("name", "as_name", "forward_arg_names")
CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict")
REFUSED = ("as_graph", "as_custom_obj", "as_operator", "custom_obj", "class_fqn", "token")
KEPT = ("graph_module", "opset_version", "range_constraints", "schema_version", "verifiers", "torch_version")


class Refused(ValueError):
    """Something that may run code, or that no exported network of ours has."""


def checked_graph(content: bytes) -> bytes:
    """A graph without what the trace remembers of its source, after a look at all else.

    Args:
        content: ``models/model.json`` of an archive.

    Raises:
        Refused: naming what no exported network of ours has.
    """
    program = json.loads(content)
    if program["guards_code"]:
        raise Refused("Python conditions on its inputs (guards_code)")
    graph = {**program["graph_module"], "metadata": {}, "treespec_namedtuple_fields": {}}
    graph["module_call_graph"] = [entry for entry in graph["module_call_graph"] if entry["signature"]]
    for node in graph["graph"]["nodes"]:
        node["metadata"] = {}
    kept = {name: program[name] for name in KEPT} | {"graph_module": graph, "guards_code": []}
    check_values(kept)
    return json.dumps(kept).encode()


def check_values(value: Any, key: str = "") -> None:
    """Raise :class:`Refused` for a string, anywhere in plain values, that has no business at its key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in REFUSED:
                raise Refused(f"{name!r} in its graph")
            if not PATH.fullmatch(name):
                raise Refused(f"the name {name[:50]!r}")
            check_values(inner, name)
    elif isinstance(value, list):
        for inner in value:
            check_values(inner, key)
    elif isinstance(value, str):
        _check_string(value, key)


def _check_string(value: str, key: str) -> None:
    if key in ("as_string", "as_strings"):  # arguments of operators: they stay strings
        return
    if key == "target":
        check_operator(value)
    elif key == "expr_str":
        _check_expression(value)
    elif key in ("in_spec", "out_spec"):
        protocol, tree = json.loads(value)
        if protocol != 1:
            raise Refused(f"a tree of protocol {protocol!r}")
        _check_tree(tree)
    elif key in NAMES:
        if value and (not value.isidentifier() or keyword.iskeyword(value)):
            raise Refused(f"the name {value[:50]!r}")
    elif not (PATH if key in PATHS else WORD).fullmatch(value):
        raise Refused(f"{value[:50]!r} as {key}")


def check_operator(target: str) -> None:
    """Raise :class:`Refused` for a function of a graph that is not known to compute only."""
    found = ATEN.fullmatch(target)
    if not found:
        if not SCALAR.fullmatch(target):
            raise Refused(f"the function {target[:80]!r}")
        return
    name, overload = found.groups()
    bare = name.removesuffix("_")  # of the operator that works in place
    overloads = _overloads(name)
    core = any(torch.Tag.core in each.tags for each in (overloads | _overloads(bare)).values())
    known = bare in MORE or (core and not {name, bare} & NOT_CORE and not name.endswith("_backward"))
    if not known or overload not in overloads:
        raise Refused(f"the operator {target!r}, which is not among those that are known to compute only")


def _overloads(name: str) -> dict[str, torch._ops.OpOverload]:
    """What torch has by a name of ``torch.ops.aten``: overload -> operator."""
    packet = getattr(torch.ops.aten, name, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return {}
    return {overload: getattr(packet, overload) for overload in packet.overloads()}


def _check_expression(text: str) -> None:
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"the size {text[:50]!r}") from error
    for node in nodes:
        if isinstance(node, ast.Call):
            good = isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
        elif isinstance(node, ast.Name):
            good = node.id in FUNCTIONS or bool(SYMBOL.fullmatch(node.id))
        elif isinstance(node, ast.Constant):
            good = isinstance(node.value, bool | int | float)
            good = good or (isinstance(node.value, str) and bool(SYMBOL.fullmatch(node.value)))
        else:
            good = isinstance(node, PARTS_OF_EXPRESSIONS)
        if not good:
            raise Refused(f"the size {text[:50]!r}")


def _check_tree(tree: Any) -> None:
    """Containers of Python's own, and a dict's keys: any other type may be looked up in a module that is imported."""
    kind, context, children = tree["type"], tree["context"], tree["children_spec"]
    if kind is None:
        good = context is None and not children
    else:
        inside = json.loads(context)
        wanted = inside is None or (isinstance(inside, list) and all(isinstance(key, str) for key in inside))
        good = kind in CONTAINERS and wanted
    if not good:
        raise Refused(f"the container {str(kind)[:50]!r} among its inputs or outputs")
    for child in children:
        _check_tree(child)
