"""Records of a report: where the time of a call goes, and what the machine can do at best."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OperationTime:
    """What one kind of operation takes in one layer, per call.

    Attributes:
        layer: ``embeddings``, ``layer 1``, ... or ``head``; ``model`` where no layers were found.
        operation: ``linear``, ``attention``, ``recurrent``, ``norm``, ``activation``,
            ``embedding``, ``elementwise``, ``layout``, ``quantize`` or ``around``
            (docs/benchmark.md says what is what).
        time_ms: per call.
        steps: operations of that kind, as the engine runs them.
        flops: of products, two per multiply-add.
        bytes_moved: inputs, weights and outputs, each once.
    """

    layer: str
    operation: str
    time_ms: float
    steps: int
    flops: float = 0.0
    bytes_moved: float = 0.0


@dataclass(frozen=True)
class Profile:
    """Where the time of one call of an engine goes.

    Attributes:
        variant, engine, precision, tokens, batch, threads: as in Result.
        state, error, hint: as in Result; ``missing``: this engine gives no profile here.
        source: what kept the time.
        runs: profiled calls.
        whole_ms: the engine's call without the profiler: mean of the fastest three quarters, as
            for every step.
        profiled_ms: the same call under the profiler.
        clock_ms: what the profiler itself added to each step; already subtracted.
        rows: layer by layer, in the order in which they run.
        note: what to know when reading it.
        void_reasons: as in Result.
    """

    variant: str
    engine: str
    precision: str
    tokens: int
    batch: int
    threads: int
    state: str = "measured"
    error: str = ""
    hint: str = ""
    source: str = ""
    runs: int = 0
    whole_ms: float = 0.0
    profiled_ms: float = 0.0
    clock_ms: float = 0.0
    rows: tuple[OperationTime, ...] = ()
    note: str = ""
    void_reasons: tuple[str, ...] = ()

    @property
    def attributed_ms(self) -> float:
        """Sum of the rows."""
        return sum(row.time_ms for row in self.rows)

    @property
    def not_attributed_ms(self) -> float:
        """``whole_ms`` less the rows: what the engine does around its steps; negative where the
        profiler slows the steps themselves."""
        return self.whole_ms - self.attributed_ms


@dataclass(frozen=True)
class Roofline:
    """What this machine can do at best, measured with NumPy's BLAS.

    Attributes:
        threads: used.
        gflops: of a float32 matrix product, in 1e9 operations per second.
        gb_per_second: of a copy, bytes read and written, in 1e9 bytes per second.
        product_size, copy_mb: what was multiplied and copied.
        blas: library that multiplied.
    """

    threads: int
    gflops: float
    gb_per_second: float
    product_size: int
    copy_mb: float
    blas: str = ""

    def floor_ms(self, row: OperationTime) -> float:
        """No float32 code can take less than this for ``row`` (Williams et al. 2009)."""
        compute = row.flops / (self.gflops * 1e9) if self.gflops else 0.0
        memory = row.bytes_moved / (self.gb_per_second * 1e9) if self.gb_per_second else 0.0
        return 1000 * max(compute, memory)
