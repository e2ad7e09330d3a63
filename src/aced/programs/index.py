"""`aced index`: reads the headers of a pool's tars once, so that later starts read one small file."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aced.cache.costs import size_text
from aced.errors import AcedError
from aced.files.download import PATIENCE
from aced.files.patterns import distinct_names
from aced.files.remote import is_address
from aced.files.several import several
from aced.pool.captions import Captions
from aced.pool.fetch.spool import spool_at, unspooled
from aced.pool.summary import tars_text
from aced.pool.tars.indexfolder import index_folder
from aced.pool.tars.located import group_tars, remember, source_of
from aced.pool.tars.manifest import Manifest
from aced.pool.tars.manifestfile import kept_path, names_manifest, write_named
from aced.pool.tars.stock import StockTaking, Streaming, streamed_of
from aced.pool.tars.tarrows import faults_of
from aced.programs.command_options import IndexOptions
from aced.runtime.descriptors import raise_file_limit
from aced.runtime.progress import Bars
from aced.runtime.threads import available_cores


def index_program(options: IndexOptions, console: Console) -> Manifest:
    """Make the manifest of a pool and the missing indexes of its tars.

    Damaged tars are reported and stop nothing: the program that reads the pool decides what to do about them.

    Raises:
        AcedError: there are no tars, none is usable, or the manifest cannot be kept.
    """
    raise_file_limit()
    shards = [source for text in options.shards for source in several(text)]
    if named := next(filter(names_manifest, shards), None):
        raise AcedError(f"{named} is already a manifest: name its tars instead.")
    if not 0 < options.spool_gb < math.inf:
        raise AcedError(f"--spool-gb is {options.spool_gb:g}; give a size above 0.")
    if not options.index_dir and options.out is None:
        raise AcedError("With an empty --index-dir nothing is kept: name a file for the manifest with --out.")
    spool = spool_at(options.spool_dir, options.spool_gb)
    if spool is None and (remote := next(filter(is_address, shards), None)):
        raise unspooled(remote, "--spool-dir")
    with Bars(console) as bars:
        folder = index_folder(options.index_dir, bars.say)
        groups, _, found = group_tars(shards, spool, tell=bars.say)
        tars = [tar for group in groups for tar in group]
        bars.say(tars_text(shards, list(map(len, groups))))
        with contextlib.ExitStack() as stack:
            far = any(map(is_address, shards))
            fetching = stack.enter_context(bars.counting("Fetching tars")) if far else None
            progress = stack.enter_context(bars.counting("Indexing tars"))
            streaming = Streaming(always=False, patience=PATIENCE)
            taking = StockTaking(
                streamed=streamed_of(tars, spool, streaming) if spool is not None else None,
                index_dir=folder,
                kept=kept_path(folder, shards) if folder else None,
                spool=spool,
                workers=options.workers or available_cores(),
                progress=progress,
                fetching=fetching,
                tell=bars.say,
                hearsay=False,
            )
            manifest = taking.take(tars).manifest
            progress(len(tars), len(tars))  # even if all were known
        if spool is not None:
            remember(found, spool, bars.say)
    if options.out is not None:
        write_named(options.out, manifest)
    names = distinct_names([source_of(tar) for tar in tars])
    console.print(_table(manifest))
    if faults := _faults(manifest, names):
        console.print(faults)
    if not any(max(tar.txt, tar.json) for tar in manifest.tars):
        raise AcedError(f"None of the {len(tars)} tars holds a pair of an image and a .txt or .json.")
    if options.out is None and taking.kept is not None and not taking.kept.exists():
        raise AcedError(f"The manifest cannot be kept in {folder}: name another --index-dir, or a file with --out.")
    where = f"Manifest: {options.out}   Use: data.shards={options.out}" if options.out else f"Manifest: {taking.kept}"
    console.print(where, markup=False, highlight=False, soft_wrap=True)
    return manifest


def _table(manifest: Manifest) -> Table:
    table = Table("Pool", "", show_header=False)
    table.columns[1].justify = "right"
    txt, of_json = sum(tar.txt for tar in manifest.tars), sum(tar.json for tar in manifest.tars)
    table.add_row("Tars", f"{len(manifest.tars):,}")
    table.add_row("without any pair", f"{sum(not max(tar.txt, tar.json) for tar in manifest.tars):,}")
    table.add_row("Pairs of image and txt", f"{txt:,}")
    table.add_row("Pairs of image and json", f"{of_json:,}")
    table.add_row("On disk", size_text(sum(max(tar.size, 0) for tar in manifest.tars)))
    return table


def _faults(manifest: Manifest, names: Sequence[str]) -> Table | None:
    """The pairs with a txt, or with a json if there are none, according to the headers."""
    captions = Captions() if any(tar.txt for tar in manifest.tars) else Captions("FIELD")
    counts, examples = Counter[str](), dict[str, str]()
    for name, tar in zip(names, manifest.tars, strict=True):
        for fault in faults_of(name, tar, captions) if tar.faults else ():
            counts[fault.name] += fault.count
            examples.setdefault(fault.name, fault.detail)
    again = manifest.repeated
    if again.times:
        counts["key_in_two_tars"] = again.times
        examples["key_in_two_tars"] = f"{again.key} in {again.source}{'' if again.exact else ' (an estimate)'}."
    if not counts:
        return None
    table = Table("Fault", "Count", "Example", title="Faults found in the headers")
    for name, count in counts.most_common():
        table.add_row(name, f"{count:,}", escape(examples[name]))
    return table
