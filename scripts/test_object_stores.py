#!/usr/bin/env python3
"""Runs the programs on object stores, and compares with local folders.

    test_object_stores.py [--bin DIR] [--images DIR] [--only CHECK ...] [--azurite PROGRAM]

The programs must be built with --features cloud. S3 is moto's server, in this process, and
fault_proxy.py before it makes faults and records the requests. moto also stands for Google's
store, of whose interface in XML the programs use what S3 has too. Azure is Azurite, where npm has
installed it. Needs the packages of readers_requirements.txt; readers_python.sh prints a Python that
has them.
"""
import argparse, base64, concurrent.futures, contextlib, functools, hashlib, hmac, json, logging
import os, random, re, shutil, socket, subprocess, sys, tarfile, tempfile, time, urllib.parse, zipfile
import urllib.request
import xml.etree.ElementTree as xml
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet
from botocore.config import Config
from moto.server import ThreadedMotoServer

from fault_proxy import FaultProxy, Rule, counts

ROOT = Path(__file__).resolve().parent.parent
BUCKET = "scrl"
PREP = {"epochs": 3, "size": 32, "min-box": 8, "rows-per-shard": 12, "max-bad": 0.1}
TRAIN = ("--quiet --device cpu --arch resnet18 --hidden 64 --projection 32 --batch-size 16 "
         "--warmup-epochs 1 --log-every 1 --online-eval off").split()
# A request that takes longer is given up and sent again; slow answers take SLOW seconds.
TIMEOUT, SLOW = "1s", 2.5
# Seconds in which a program must end.
LIMIT = 60
# Azurite's package in npm, and the account and key that every copy of it has.
AZURITE = "azurite@3.35.0"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

TEMPORARY = ("timeout", "slow", "503", "cut", "reset", "lost")
NO_KEYS = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
# Nothing listens on the port of the discard protocol.
NO_SERVER = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
# How causes may be named.
REFUSED, KEYLESS = "403|denied", "credential|AWS_ACCESS_KEY_ID"
ABSENT = "404|not found|no ?such|not exist|removed"
# Faults that no repetition ends: the program, what, a rule or other variables, the buckets of
# images and shards, and the cause.
PERMANENT = (
    ("prep", "always 503", Rule("503"), BUCKET, BUCKET, "503|SlowDown"),
    ("prep", "no server", NO_SERVER, BUCKET, BUCKET, "connect"),
    ("prep", "no keys", NO_KEYS, BUCKET, BUCKET, KEYLESS),
    ("prep", "wrong keys", Rule("403"), BUCKET, BUCKET, REFUSED),
    ("prep", "expired token", Rule("400"), BUCKET, BUCKET, "expired"),
    ("prep", "may not list", Rule("403", "GET", "list-type"), BUCKET, BUCKET, REFUSED),
    ("prep", "may not read", Rule("403", "GET", "/images/"), BUCKET, BUCKET, REFUSED),
    ("prep", "may not write", Rule("403", "PUT|POST"), BUCKET, BUCKET, REFUSED),
    ("prep", "no bucket of images", None, "missing", BUCKET, ABSENT),
    ("prep", "no bucket for shards", None, BUCKET, "missing", ABSENT),
    ("train", "no keys", NO_KEYS, "", BUCKET, KEYLESS),
    ("train", "may not read", Rule("403", "GET", "part-"), "", BUCKET, REFUSED),
    ("train", "missing part", Rule("404", "GET|HEAD", "part-00001"), "", BUCKET, ABSENT),
    ("train", "no bucket", None, "", "missing", ABSENT),
)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", type=Path, default=ROOT / "target/debug", help="the programs")
    parser.add_argument("--images", type=Path, help="folder of images [default: drawn scenes]")
    parser.add_argument("--only", nargs="+", choices=CHECKS)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    found = shutil.which("azurite-blob") or ROOT / ".venv/azurite/node_modules/.bin/azurite-blob"
    parser.add_argument("--azurite", type=Path, default=found, help="the program azurite-blob")
    return parser.parse_args()


def check(condition, message):
    if not condition:
        sys.exit(f"test_object_stores: {message}")


class Programs:
    """The programs, with the variables that lead them to a store."""

    def __init__(self, programs, folder, **variables):
        self.programs, self.folder, self.variables = programs, folder, variables

    def start(self, program, *arguments):
        foreign = ("AWS_", "GOOGLE_", "AZURE_", "AZURITE_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        # Credentials in the user's folder do not count either.
        kept |= {"HOME": str(self.folder)} | {k: v for k, v in self.variables.items() if v}
        return subprocess.Popen([self.programs / program, *arguments], env=kept, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def start_prep(self, images, shards, *more, **options):
        words = PREP | {name.replace("_", "-"): value for name, value in options.items()}
        words = [f"--{name}={value}" for name, value in words.items()]
        return self.start("scrl-prep", "--quiet", *words, *more, images, shards)

    def run(self, process, expected=0):
        """The exit code, the output and the errors of a started program."""
        name = " ".join(map(str, process.args[:1] + process.args[-2:]))
        try:
            output, errors = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            check(False, f"{name}: still running after {LIMIT} s\n{errors}")
        code = process.returncode
        check(expected in (None, code), f"{name}: exit code {code} instead of {expected}\n{errors}")
        return code, output, errors

    def prep(self, images, shards, **options):
        return self.run(self.start_prep(images, shards, **options))

    def losses(self, shards, *options, steps):
        with tempfile.TemporaryDirectory(dir=self.folder) as out:
            line = [*TRAIN, "--max-steps", str(steps), *options, "--out", out, shards]
            self.run(self.start("scrl-train", *line))
            lines = Path(out, "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]


class Local(Programs):
    """A local folder of images, and what the programs make of it without a store."""

    def __init__(self, programs, folder, scenes):
        """Copies images or draws them, and adds some that put keys in another order than a walk
        through folders, a name that URLs escape, and two images that cannot be read."""
        super().__init__(programs, folder)
        self.images = folder / "images"
        if scenes is None:
            line = [programs / "examples/make_scenes", folder / "scenes", "--single"]
            line += "--images 40 --val 0 --size 160x120".split()
            subprocess.run(line, check=True, capture_output=True)
            scenes = folder / "scenes/train2017"
        shutil.copytree(scenes, self.images)
        found = sorted(path for path in self.images.rglob("*.*") if path.is_file())
        ending = found[0].suffix
        for path, name in zip(found, ("a/x", "a/b/c", "a-b", "a", "a0", "a b/ü+%26#&")):
            copy = self.images / (name + ending)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        (self.images / "a/broken.jpg").write_text("no image")
        (self.images / "a/empty.png").touch()
        (self.images / "paths.txt").write_text(f"a0{ending}\tfirst\na/x{ending}\tsecond\n")

    @functools.cached_property
    def shards(self):
        self.prep(self.images, self.folder / "reference")
        return files_of(self.folder / "reference")

    @functools.cached_property
    def expected_losses(self):
        """Those of the first steps, of which the last is in the second epoch."""
        check(self.shards, "no shards")
        return self.losses(self.folder / "reference", steps=4)


def files_of(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def compare(found, expected, what):
    """Both have the same files, with the same bytes but for one line of dataset.toml."""

    def plain(files):
        lines = files.get("dataset.toml", b"").splitlines()
        return files | {"dataset.toml": [x for x in lines if not x.startswith(b'images = "')]}

    found, expected = plain(found), plain(expected)
    missing, more = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    check(not missing and not more, f"{what}: lacks {missing[:5]}, should not have {more[:5]}")
    other = [name for name in sorted(found) if found[name] != expected[name]]
    check(not other, f"{what}: other bytes in {other[:5]}")


class Store:
    """A store with the bucket."""

    def url(self, path):
        return f"{self.scheme}://{BUCKET}/{path}"

    @contextlib.contextmanager
    def proxy(self, local, *rules, **variables):
        """A proxy before the store, and programs that are led to it."""
        proxy = FaultProxy(self.address)
        proxy.rules = list(rules)
        variables = self.variables(proxy.url) | variables
        try:
            yield proxy, Programs(local.programs, local.folder, **variables)
        finally:
            proxy.close()

    def put_folder(self, files, folder):
        for name, content in files.items():
            self.put(f"{folder}/{name}", content)


class S3(Store):
    scheme = "s3"
    # In place of the machine's own credentials: an address that never answers.
    silent = socket.create_server(("127.0.0.1", 0))

    def __init__(self, address):
        self.address = address
        self.client = boto3.client(
            "s3", endpoint_url="http://{}:{}".format(*address), region_name="us-east-1",
            aws_access_key_id="key", aws_secret_access_key="secret",
            config=Config(s3={"addressing_style": "path"}))

    def variables(self, endpoint):
        metadata = "http://{}:{}".format(*self.silent.getsockname())
        return {"AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_TIMEOUT": TIMEOUT, "AWS_METADATA_ENDPOINT": metadata}

    def put(self, key, content):
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def files(self, folder):
        pages = self.client.get_paginator("list_objects_v2")
        pages = pages.paginate(Bucket=BUCKET, Prefix=f"{folder}/")
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        get = functools.partial(self.client.get_object, Bucket=BUCKET)
        return {key[len(folder) + 1:]: get(Key=key)["Body"].read() for key in keys}

    def unfinished_uploads(self):
        return self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])


class Google(S3):
    scheme = "gs"

    def variables(self, endpoint):
        return {"GOOGLE_BASE_URL": endpoint, "GOOGLE_BEARER_TOKEN": "token"}


class Azure(Store):
    scheme = "az"

    def __init__(self, address):
        self.address = address
        fields = ["rwdlac", "b", "sco", "", "2100-01-01T00:00:00Z", "", "", "2020-12-06", "", ""]
        text = "\n".join([ACCOUNT, *fields]).encode()
        signature = hmac.new(base64.b64decode(KEY), text, hashlib.sha256).digest()
        names = ["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"]
        query = {name: value for name, value in zip(names, fields) if value}
        self.signed = urllib.parse.urlencode(query | {"sig": base64.b64encode(signature)})
        self.call("PUT", "", "restype=container&", b"")

    def variables(self, endpoint):
        return {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": endpoint}

    def call(self, method, key, query="", content=None):
        path = urllib.parse.quote(f"/{ACCOUNT}/{BUCKET}/{key}".rstrip("/"))
        url = "http://{}:{}{}?{}{}".format(*self.address, path, query, self.signed)
        headers = {"x-ms-blob-type": "BlockBlob"} if method == "PUT" else {}
        request = urllib.request.Request(url, content, headers, method=method)
        with urllib.request.urlopen(request) as answer:
            return answer.read()

    def put(self, key, content):
        self.call("PUT", key, "", content)

    def files(self, folder):
        query = f"restype=container&comp=list&prefix={urllib.parse.quote(folder)}/&"
        keys = [name.text for name in xml.fromstring(self.call("GET", "", query)).iter("Name")]
        return {key[len(folder) + 1:]: self.call("GET", key) for key in keys}


def most_finished(requests, folder, local):
    """The most epochs that were finished at any moment; none may ever be without one of its parts.
    What is written is there from the answer on and what is removed until the request, but
    `_SUCCESS`, to be on the safe side, from the request on and until the answer."""
    parts = {name.split("/")[1] for name in local.shards if "/part-" in name}
    events = []
    for request in requests:
        writes = request.kind in ("put", "complete upload")
        if not writes and request.kind not in ("delete", "bulk delete"):
            continue
        if request.status not in range(200, 300):
            continue
        for key in request.keys:
            late = writes != key.endswith("_SUCCESS")
            events.append((request.answered if late else request.began, key, writes))
    there, most = set(), 0
    for _, key, writes in sorted(events):
        (there.add if writes else there.discard)(key)
        finished = [key.rsplit("/", 1)[0] for key in there if key.endswith("/_SUCCESS")]
        finished = [epoch for epoch in finished if f"/{folder}/epoch=" in epoch]
        for epoch in finished:
            missing = [part for part in parts if f"{epoch}/{part}" not in there]
            check(not missing, f"{epoch} had a _SUCCESS without {missing}")
        most = max(most, len(finished))
    return most


def same_bytes(local, store):
    here = local.folder / "from-bucket"
    with store.proxy(local) as (proxy, programs):
        for images, shards in (
            (store.url("images/"), store.url("both/")),
            (local.images, store.url("shards")),
            (store.url("images"), here),
        ):
            programs.prep(images, shards)
            files = files_of(here) if shards == here else store.files(shards.split("/")[3])
            compare(files, local.shards, f"{images} → {shards}")
        check(most_finished(proxy.requests, "both", local) == 3, "the proxy saw no epochs")
        before = len(proxy.requests)
        programs.prep(store.url("images/"), store.url("both/"))
        again = [r.path for r in proxy.requests[before:] if r.method == "PUT" and "part-" in r.path]
        check(not again, f"a finished folder, started again, has {again} written")
    return f"{len(files)} files from and to a bucket are those of local folders"


def two_ranks(local, store):
    with store.proxy(local) as (proxy, programs):
        images, shards = store.url("images/"), store.url("ranks/")
        for rank in [programs.start_prep(images, shards, rank=r, world_size=2) for r in (0, 1)]:
            programs.run(rank)
        compare(store.files("ranks"), local.shards, "two ranks")
        most_finished(proxy.requests, "ranks", local)
    return "two ranks at the same time: the same bytes"


def killed(local, store, kills=5):
    numbers, done = random.Random(store.seed), 0
    with store.proxy(local) as (proxy, programs):
        programs.prep(store.url("images/"), store.url("undisturbed/"))
        usual = len(proxy.requests)
        images, shards = store.url("images/"), store.url("killed/")
        for _ in range(kills):
            until = len(proxy.requests) + numbers.randrange(usual * 2 // 3)
            process = programs.start_prep(images, shards)
            while process.poll() is None and len(proxy.requests) < until:
                time.sleep(0.001)
            time.sleep(numbers.uniform(0, 0.02))
            process.kill()
            process.communicate()
            done += process.returncode == -9
            most_finished(proxy.requests, "killed", local)
        programs.prep(images, shards)
        compare(store.files("killed"), local.shards, "killed")
        most_finished(proxy.requests, "killed", local)
    check(done, "every run ended before it was killed")
    return f"killed {done} times: the same bytes, and never a _SUCCESS without its parts"


def multipart(local, store):
    """A shard of several chunks: images of noise, which hardly compress."""
    images, shards = local.folder / "noise", store.url("noisy/")
    images.mkdir()
    for number in range(80):
        pixels = random.Random(number).randbytes(240 * 240 * 3)
        (images / f"{number}.ppm").write_bytes(b"P6 240 240 255\n" + pixels)
    options = {"epochs": 1, "size": 224, "crop_scale": "0.9,1", "rows_per_shard": 80}
    local.prep(images, local.folder / "noisy", **options)
    chunk = "partNumber="
    with store.proxy(local) as (proxy, programs):
        process = programs.start_prep(images, shards, **options)
        while process.poll() is None and not counts(proxy.requests)["upload part"]:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        there = [name for name in store.files("noisy") if "part-" in name]
        check(process.returncode == -9 and not there, f"killed in an upload: {there}")
    left = store.unfinished_uploads()
    with store.proxy(local, Rule("403", "PUT", chunk)) as (_, programs):
        code, _, errors = programs.run(programs.start_prep(images, shards, **options), None)
        check(code in (1, 2) and "s3://" in errors, f"chunks refused: exit code {code}: {errors}")
        check(store.unfinished_uploads() == left, "an upload that failed is left unfinished")
    rules = [Rule(kind, "PUT", chunk, 1, seconds=SLOW) for kind in TEMPORARY]
    # The answer that begins an upload must not be lost: nobody else could end the upload.
    rules += [Rule("503", "POST", "uploads", 1), Rule("503", "POST", "uploadId=", 1),
              Rule("lost", "POST", "uploadId=", 1)]
    with store.proxy(local, *rules) as (proxy, programs):
        programs.prep(images, shards, **options)
        made = counts(proxy.requests)
    compare(store.files("noisy"), files_of(local.folder / "noisy"), "uploads in chunks")
    check(all(rule.hits for rule in rules), f"not all faults occurred: {made}")
    check(store.unfinished_uploads() == left, "an upload is left unfinished")
    return f"killed, refused, and with {len(rules)} faults: the same bytes"


def train(local, store):
    images, recipes = store.url("images/"), local.folder / "recipes"
    local.prep(local.images, recipes, views="recipe")
    with store.proxy(local) as (_, programs):
        programs.prep(images, store.url("trained/"))
        programs.prep(images, store.url("recipes/"), views="recipe")
        expected = local.expected_losses
        for what, *line in (
            ("views", store.url("trained/")),
            ("recipes and their images", store.url("recipes/")),
            ("the images of local recipes", "--images", images, recipes),
        ):
            found = programs.losses(*line[-1:], *line[:-1], steps=len(expected))
            check(found == expected, f"{what} in the bucket: {found} instead of {expected}")
    return f"views and recipes: losses {expected[0]:.4f} … {expected[-1]:.4f} as locally"


def keep(local, store):
    reference = local.folder / "five"
    local.prep(local.images, reference, epochs=5)
    shards = store.url("keep/")
    with store.proxy(local) as (proxy, programs), tempfile.TemporaryDirectory() as out:
        line = [*TRAIN, "--follow", "--consume", "--out", out, shards]
        prep = programs.start_prep(store.url("images/"), shards, epochs=5, keep=2)
        for process in (prep, programs.start("scrl-train", *line)):
            programs.run(process)
        most = most_finished(proxy.requests, "keep", local)
    files, expected = store.files("keep"), files_of(reference)
    consumed = json.loads(files["consumed.json"])["epochs"]
    check(consumed == 5 and 1 <= most <= 2, f"{consumed} epochs consumed, {most} at a time")
    other = [name for name in files if "epoch=" in name and files[name] != expected.get(name)]
    check(not other, f"other bytes in {other}")
    return f"{consumed} epochs consumed, at most {most} finished at a time"


def inspect(local, store):
    shards, part = store.url("inspect/"), "epoch=00001/part-00001.parquet"
    check(local.shards, "no shards")
    with store.proxy(local) as (_, programs):
        programs.prep(store.url("images/"), shards)
        verify = ("scrl-inspect", "--verify", shards)
        right = programs.run(programs.start(*verify))[1].strip()
        found = programs.run(programs.start("scrl-inspect", "--json", shards))[1]
        expected = local.run(local.start("scrl-inspect", "--json", local.folder / "reference"))[1]
        found, expected = (json.loads(text)["found"] for text in (found, expected))
        check(found == expected, f"other statistics than locally: {found}")
        store.client.delete_object(Bucket=BUCKET, Key=f"inspect/{part}")
        code, output, errors = programs.run(programs.start(*verify), None)
        named = part in output + errors and shards[:-1] in errors
        check(code == 1 and named, f"a part removed: exit code {code}: {output}{errors}")
    return f"{right}; without a part: {errors.splitlines()[-1]}"


def archives(local, store):
    tar, table = local.folder / "images.tar", local.folder / "images.parquet"
    packed = local.folder / "images.zip"
    with tarfile.open(tar, "w") as archive:
        archive.add(local.images, "")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files_of(local.images).items():
            archive.writestr(name, content)
    rows = [{"bytes": content, "path": name} for name, content in files_of(local.images).items()]
    column = pa.array([row for row in rows if not row["path"].endswith(".txt")])
    pa.parquet.write_table(pa.table({"image": column}), table, row_group_size=7)
    with store.proxy(local) as (_, programs):
        for number, file in enumerate((tar, packed, table, local.images / "paths.txt")):
            key = f"{'images' if file.suffix == '.txt' else 'archives'}/{file.name}"
            store.put(key, file.read_bytes())
            local.prep(file, local.folder / f"archive-{number}")
            programs.prep(store.url(key), store.url(f"archive-{number}"))
            found = store.files(f"archive-{number}")
            compare(found, files_of(local.folder / f"archive-{number}"), file.name)
    return "a tar and a zip archive, a Parquet file and a list of paths: the same bytes"


def requests(local, store):
    """Figures for the documentation, not a test."""
    said = f"an epoch of {len(files_of(local.images)) - 1} images in 4 shards"
    shards = store.url("one")
    for name in ("scrl-prep", "scrl-train"):
        with store.proxy(local) as (proxy, programs):
            if name == "scrl-prep":
                programs.prep(store.url("images/"), shards, epochs=1)
            else:
                programs.losses(shards, steps=2)
            made = ", ".join(f"{n} {kind}" for kind, n in counts(proxy.requests).most_common())
            said += f"; {name}: {made}, {proxy.most_in_flight} in flight at most"
    return said


def temporary(local, store, program, kind):
    """A fault of the first requests of each kind: the run succeeds, with the same result."""
    rule = functools.partial(Rule, kind, seconds=SLOW)
    if program == "prep":
        rules = [rule("GET", "list-type", 1), rule("GET", "/images/", 2)]
        rules += [rule("PUT", "part-", 2), rule("PUT", "_SUCCESS", 1)]
        # The journals are removed.
        rules += [rule("POST|DELETE", "", 1)]
    else:
        rules = [rule("GET", "dataset.toml", 1), rule("GET", "part-", 2)]
    folder = f"temporary-{kind}"
    with store.proxy(local, *rules) as (proxy, programs):
        if program == "prep":
            programs.prep(store.url("images/"), store.url(folder))
            compare(store.files(folder), local.shards, kind)
            most_finished(proxy.requests, folder, local)
        else:
            found = programs.losses(store.url("faults"), steps=1)
            check(found == local.expected_losses[:1], f"{kind}: loss {found}")
    hits = [rule.hits for rule in rules]
    result = "bytes" if program == "prep" else "loss"
    return all(hits), f"the same {result} after {sum(hits)} faults"


def permanent(local, store, program, what, fault, images, shards, cause):
    """The run ends soon, with a line that names the URL and the cause, and publishes nothing."""
    folder = "faults" if program == "train" else what.replace(" ", "-")
    rules, changes = ([fault], {}) if isinstance(fault, Rule) else ([], fault or {})
    with store.proxy(local, *rules, **changes) as (proxy, programs):
        with tempfile.TemporaryDirectory(dir=local.folder) as out:
            shards = f"s3://{shards}/{folder}/"
            if program == "prep":
                process = programs.start_prep(f"s3://{images}/images/", shards)
            else:
                line = [*TRAIN, "--max-steps", "3", "--out", out, shards]
                process = programs.start("scrl-train", *line)
            code, _, errors = programs.run(process, None)
        published = most_finished(proxy.requests, folder, local)
    right = code in (1, 2) and len(errors.splitlines()) == 1 and "s3://" in errors
    right = right and re.search(cause, errors, re.I) and not published
    return right, f"exit code {code}: {errors.strip()}"


def faults(local, store):
    store.put_folder(local.shards, "faults")
    check(local.expected_losses, "no losses")
    # Every run has a proxy of its own, so that several can wait at a time.
    runs = [(line[:2], permanent, line) for line in PERMANENT]
    for program in ("prep", "train"):
        runs += [((program, kind), temporary, (program, kind)) for kind in TEMPORARY]

    def row(name, run, line):
        start = time.monotonic()
        try:
            right, said = run(local, store, *line)
        except SystemExit as error:
            right, said = False, str(error)
        seconds = time.monotonic() - start
        said = said if right else f"WRONG: {said}"
        print(f"  {': '.join(name):28} {seconds:4.1f} s  {said}", flush=True)
        return bool(right)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda run: row(*run), runs))
    check(all(rows), f"{rows.count(False)} of {len(rows)} faults end wrongly")
    return f"{len(rows)} faults: temporary ones leave no trace, others one line"


def in_short(local, store):
    store.put_folder(files_of(local.images), "images")
    with store.proxy(local) as (proxy, programs):
        shards = store.url("other/")
        programs.prep(store.url("images/"), shards)
        compare(store.files("other"), local.shards, shards)
        found = programs.losses(shards, steps=2)
        check(found == local.expected_losses[:2], f"{shards}: losses {found}")
        check(most_finished(proxy.requests, "other", local) == 3, "the proxy saw no epochs")
    return f"{store.scheme}://: the same bytes and losses after {len(proxy.requests)} requests"


def google(local, store):
    return in_short(local, Google(store.address))


def azure(local, store):
    if not store.azurite.exists():
        return f"skipped; to install it: npm install --prefix .venv/azurite {AZURITE}"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    line = [store.azurite, "--blobHost", address[0], "--blobPort", str(address[1]), "--silent"]
    line += ["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(address):
                break
            time.sleep(0.1)
        return in_short(local, Azure(address))
    finally:
        process.terminate()
        process.wait()


CHECKS = {check.__name__: check for check in (
    same_bytes, two_ranks, killed, multipart, train, keep, inspect, archives, requests, faults,
    google, azure)}


def main():
    options = arguments()
    os.environ["NO_PROXY"] = "127.0.0.1"
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    store = S3(server.get_host_and_port())
    store.seed, store.azurite = options.seed, options.azurite
    store.client.create_bucket(Bucket=BUCKET)
    with tempfile.TemporaryDirectory() as folder:
        local = Local(options.bin.resolve(), Path(folder), options.images)
        store.put_folder(files_of(local.images), "images")
        # Consoles mark a folder like this.
        store.put("images/a/", b"")
        skipped, names = 0, options.only or CHECKS
        for name in names:
            start = time.monotonic()
            said = CHECKS[name](local, store)
            skipped += said.startswith("skipped")
            print(f"{name.replace('_', ' ')}, {time.monotonic() - start:.1f} s: {said}", flush=True)
    print(f"test_object_stores: {len(names) - skipped} passed, 0 failed, {skipped} skipped")


if __name__ == "__main__":
    main()
