"""Runs in the environment of `make mxnet-env` (MXNet 1.9.1, no facex): `read PREFIX`, `write PREFIX`, `split PREFIX
PARTS`."""

import hashlib
import json
import sys

import mxnet as mx
import numpy as np


def read(prefix):
    """Every record by key and in sequence, headers and decoded pictures, as JSON."""
    indexed = mx.recordio.MXIndexedRecordIO(prefix + ".idx", prefix + ".rec", "r")
    rows = []
    for key in indexed.keys:
        record = indexed.read_idx(key)
        header, payload = mx.recordio.unpack(record)
        label = np.ravel(header.label).astype(float).tolist()
        row = {"key": key, "sha": hashlib.sha256(record).hexdigest(), "flag": header.flag, "label": label}
        row.update(id=header.id, id2=header.id2, payload=len(payload))
        if payload[:2] == b"\xff\xd8":
            row["rgb"] = hashlib.sha256(mx.image.imdecode(payload).asnumpy().tobytes()).hexdigest()
        rows.append(row)
    plain = mx.recordio.MXRecordIO(prefix + ".rec", "r")
    sequence = []
    record = plain.read()
    while record is not None:
        sequence.append(hashlib.sha256(record).hexdigest())
        record = plain.read()
    return {"rows": rows, "sequence": sequence}


def write(prefix):
    """Records with labels of all kinds, pictures, and magics at every place; what was written, as JSON."""
    magic = b"\x0a\x23\xd7\xce"
    with open(prefix + ".jpg", "rb") as file:
        picture = file.read()
    writer = mx.recordio.MXIndexedRecordIO(prefix + ".idx", prefix + ".rec", "w")
    rows = []
    labels = [3, 2.5, [4.0, 1.0], [7.0], list(range(20)), -1804698880.0]
    for key, label in enumerate(labels * 3):
        header = mx.recordio.IRHeader(0, label, key, 2**63 + key)
        if key % 3 == 0:
            record = mx.recordio.pack(header, picture)
        else:
            record = mx.recordio.pack(header, (b"x" * (key % 5) + magic) * key + b"tail"[: key % 4])
        writer.write_idx(key, record)
        rows.append({"key": key, "sha": hashlib.sha256(record).hexdigest(), "label": np.ravel(label).tolist()})
    writer.close()
    return {"rows": rows}


def split(prefix, parts):
    """Ids of the pictures that MXNet's own iterator finds when the file is cut into byte ranges, without an index."""
    found = []
    for part in range(int(parts)):
        iterator = mx.io.ImageRecordIter(
            path_imgrec=prefix + ".rec", data_shape=(3, 16, 16), batch_size=1, num_parts=int(parts), part_index=part
        )
        found += [int(batch.label[0].asscalar()) for batch in iterator]
    return {"labels": sorted(found)}


if __name__ == "__main__":
    print(json.dumps({"read": read, "write": write, "split": split}[sys.argv[1]](*sys.argv[2:])))
