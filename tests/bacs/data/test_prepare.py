"""Downloads from a real server on this machine that plays the sites: form, cookie, checksums, ranges and failures."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
import threading
import traceback
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from bacs.data.cityscapes_site import CityscapesSite, Credentials
from bacs.data.download import Checksum, DownloadError, download, unpack
from bacs.data.prepare import Archive, prepare, prepare_ade20k, prepare_cityscapes, prepare_voc
from bacs.errors import RequestError

NAME, SECRET = "ada", "pass&word=ümlaut"
PACKAGES = {
    1: Archive("gtFine_trainvaltest.zip", "gtFine", {"train/*/*_gtFine_labelIds.png": 3}),
    3: Archive("leftImg8bit_trainvaltest.zip", "leftImg8bit", {"train/*/*_leftImg8bit.png": 3}),
}
PAYLOAD = bytes(range(256)) * 4096


def zipped(names, extra=()):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, name in enumerate([*names, *extra, "license.txt"]):
            archive.writestr(name, f"{number}:{name}" * 500)
    return buffer.getvalue()


def city_zips():
    masks = [f"gtFine/train/ulm/ulm_{n}_gtFine_labelIds.png" for n in range(3)]
    images = [f"leftImg8bit/train/ulm/ulm_{n}_leftImg8bit.png" for n in range(3)]
    return {1: zipped(masks), 3: zipped(images)}


class Site:
    """State of the server, and what it was asked for."""

    def __init__(self):
        self.files = {f"/file-handling/?packageID={n}": content for n, content in city_zips().items()}
        self.checksums = True
        self.ranges = True
        self.terms_accepted = True
        self.status = None
        self.break_after = None
        self.forget_after_file = False
        self.sessions = set()
        self.logins = 0
        self.requests = []
        self.sent = []

    def reply(self, handler, method):
        self.requests.append(f"{method} {handler.path}")
        page = urlsplit(handler.path).path
        if self.status:
            handler.send_error(self.status)
        elif page == "/login/":
            self.log_in(handler, method)
        elif page == "/md5-sum/":
            content = self.files[handler.path.replace("md5-sum", "file-handling")]
            text = f"{hashlib.md5(content).hexdigest()}  a.zip" if self.checksums else "none"
            send(handler, text.encode())
        elif page != "/file-handling/" or self.cookie(handler) in self.sessions:
            self.hand_out(handler)
        else:
            redirect(handler, "/login/")

    def log_in(self, handler, method):
        if method == "GET":
            send(handler, b"<form>", headers={"Content-Type": "text/html", "Set-Cookie": "id=fresh; Path=/"})
            return
        form = parse_qs(handler.rfile.read(int(handler.headers["Content-Length"])).decode())
        right = form == {"username": [NAME], "password": [SECRET], "submit": ["Login"]}
        if not right or self.cookie(handler) is None:
            send(handler, b"<form>wrong", headers={"Content-Type": "text/html"})
            return
        self.logins += 1
        session = f"session{self.logins}"
        self.sessions = {session}
        redirect(handler, "/downloads/", {"Set-Cookie": f"id={session}; Path=/"})

    def cookie(self, handler):
        cookie = handler.headers.get("Cookie")
        return cookie.partition("id=")[2] if cookie else None

    def hand_out(self, handler):
        if not self.terms_accepted:
            send(handler, b"<html>please accept", headers={"Content-Type": "text/html"})
            return
        content = self.files[handler.path]
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1]) if self.ranges else 0
        self.sent.append(start)
        if start >= len(content):
            send(handler, b"", 416, {"Content-Range": f"bytes */{len(content)}"})
        else:
            status = 206 if handler.headers.get("Range") and self.ranges else 200
            send(handler, content[start:], status, {"Content-Type": "application/zip"}, self.break_after)
        if self.forget_after_file:
            self.sessions = set()


def send(handler, content, status=200, headers=None, break_after=None):
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content[:break_after])
    handler.close_connection = True


def redirect(handler, where, headers=None):
    send(handler, b"", 302, {"Location": where, **(headers or {})})


@pytest.fixture
def site():
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.reply(self, "GET")

        def do_POST(self):
            state.reply(self, "POST")

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def login(monkeypatch):
    monkeypatch.setenv("CITYSCAPES_USERNAME", NAME)
    monkeypatch.setenv("CITYSCAPES_PASSWORD", SECRET)


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def cityscapes(site, root):
    told = []
    prepare_cityscapes(root, told.append, packages=PACKAGES, site=site.url)
    return told


def test_cityscapes_is_fetched_once(site, tmp_path):
    told = cityscapes(site, tmp_path)
    assert files(tmp_path) == [
        *[f"gtFine/train/ulm/ulm_{n}_gtFine_labelIds.png" for n in range(3)],
        "gtFine_trainvaltest.zip",
        *[f"leftImg8bit/train/ulm/ulm_{n}_leftImg8bit.png" for n in range(3)],
        "leftImg8bit_trainvaltest.zip",
    ]
    assert "is complete" in told[0]
    assert site.logins == 1
    before = len(site.requests)
    cityscapes(site, tmp_path)
    assert len(site.requests) == before


def test_only_what_is_missing_is_fetched(site, tmp_path):
    cityscapes(site, tmp_path)
    shutil.rmtree(tmp_path / "leftImg8bit")
    (tmp_path / "leftImg8bit_trainvaltest.zip").unlink()
    site.sent.clear()
    cityscapes(site, tmp_path)
    assert len(site.sent) == 1


def test_wrong_login_is_refused_without_telling_the_password(site, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CITYSCAPES_PASSWORD", "other-secret")
    with pytest.raises(RequestError, match="'ada', and the site refuses this login") as caught:
        cityscapes(site, tmp_path)
    report = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(caught.value.__dict__)
    assert "other-secret" not in report
    assert files(tmp_path) == []


def test_the_password_is_in_no_representation():
    credentials = Credentials(NAME, SECRET)
    assert SECRET not in repr(credentials) + str(credentials) + repr(vars(CityscapesSite(credentials)))


@pytest.mark.parametrize("missing", [["CITYSCAPES_PASSWORD"], ["CITYSCAPES_USERNAME", "CITYSCAPES_PASSWORD"]])
def test_missing_variables_are_named(site, tmp_path, monkeypatch, missing):
    for name in missing:
        monkeypatch.setenv(name, "")
    with pytest.raises(RequestError) as caught:
        cityscapes(site, tmp_path)
    assert [fault.where for fault in caught.value.faults] == missing
    assert not site.requests


def test_archives_put_there_by_hand_need_no_login(site, tmp_path, monkeypatch):
    monkeypatch.delenv("CITYSCAPES_USERNAME")
    for number, content in city_zips().items():
        (tmp_path / PACKAGES[number].file).write_bytes(content)
    cityscapes(site, tmp_path)
    assert not site.requests
    assert not PACKAGES[1].missing(tmp_path)


def test_an_expired_cookie_is_renewed(site, tmp_path):
    site.forget_after_file = True
    cityscapes(site, tmp_path)
    assert site.logins == 2
    assert not PACKAGES[3].missing(tmp_path)


def test_a_page_in_the_place_of_a_file_is_not_saved(site, tmp_path):
    site.terms_accepted = False
    with pytest.raises(RequestError, match="does not hand out gtFine_trainvaltest") as caught:
        cityscapes(site, tmp_path)
    assert "accept its terms" in caught.value.faults[0].remedy
    assert files(tmp_path) == []


def test_a_broken_site_is_a_failure(site, tmp_path):
    site.status = 503
    with pytest.raises(DownloadError, match="answers 503"):
        cityscapes(site, tmp_path)


def test_an_unreachable_site_is_a_failure(site, tmp_path):
    with pytest.raises(DownloadError, match="cannot be reached"):
        prepare_cityscapes(tmp_path, print, packages=PACKAGES, site="http://127.0.0.1:1")


def test_an_interrupted_transfer_goes_on_where_it_stopped(site, tmp_path):
    site.break_after = 700
    with pytest.raises(DownloadError, match="broke off after 700 of") as caught:
        cityscapes(site, tmp_path)
    assert "goes on where it stopped" in caught.value.remedy
    assert files(tmp_path) == ["gtFine_trainvaltest.zip.part"]
    site.break_after = None
    cityscapes(site, tmp_path)
    assert site.sent == [0, 700, 0]
    assert not PACKAGES[1].missing(tmp_path)


def test_a_file_with_another_checksum_is_fetched_anew(site, tmp_path):
    (tmp_path / "gtFine_trainvaltest.zip.part").write_bytes(b"of another file")
    with pytest.raises(DownloadError, match="md5 checksum"):
        cityscapes(site, tmp_path)
    assert files(tmp_path) == []
    cityscapes(site, tmp_path)
    assert not PACKAGES[1].missing(tmp_path)


def test_a_corrupt_zip_is_told(site, tmp_path):
    site.checksums = False
    content = bytearray(site.files["/file-handling/?packageID=1"])
    content[200:220] = bytes(20)
    site.files["/file-handling/?packageID=1"] = bytes(content)
    with pytest.raises(DownloadError, match=r"gtFine_trainvaltest.zip is damaged") as caught:
        cityscapes(site, tmp_path)
    assert "delete" in caught.value.remedy
    assert not [name for name in files(tmp_path) if name.endswith("0_gtFine_labelIds.png")]


def test_an_archive_without_the_files_is_told(site, tmp_path):
    site.files["/file-handling/?packageID=1"] = zipped(["gtFine/train/ulm/ulm_0_gtFine_labelIds.png"])
    with pytest.raises(DownloadError, match="1 of 3"):
        cityscapes(site, tmp_path)


def test_too_small_a_disk_is_refused(site, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(RequestError, match=r"on a disk with 0\.00 GB free") as caught:
        cityscapes(site, tmp_path)
    assert caught.value.faults[0].where == "dataset.root"
    assert files(tmp_path) == []


def test_a_server_without_ranges_sends_the_whole_file(site, tmp_path):
    site.files["/a.bin"], site.ranges = PAYLOAD, False
    (tmp_path / "a.bin.part").write_bytes(b"x" * 100)
    download(f"{site.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == PAYLOAD


@pytest.mark.parametrize(("there", "sent"), [(len(PAYLOAD), [len(PAYLOAD)]), (len(PAYLOAD) + 1, [len(PAYLOAD) + 1, 0])])
def test_a_part_that_is_whole_or_too_long(site, tmp_path, there, sent):
    site.files["/a.bin"] = PAYLOAD
    (tmp_path / "a.bin.part").write_bytes((PAYLOAD + b"x")[:there])
    download(f"{site.url}/a.bin", tmp_path / "a.bin", checksum=Checksum("sha1", hashlib.sha1(PAYLOAD).hexdigest()))
    assert (tmp_path / "a.bin").read_bytes() == PAYLOAD
    assert site.sent == sent


def test_progress_counts_what_is_there_already(site, tmp_path):
    site.files["/a.bin"] = PAYLOAD
    (tmp_path / "a.bin.part").write_bytes(PAYLOAD[:1000])
    steps = []
    download(f"{site.url}/a.bin", tmp_path / "a.bin", progress=lambda *step: steps.append(step))
    assert steps[-1] == ("a.bin", len(PAYLOAD), len(PAYLOAD))
    assert steps[0][1] > 1000


def test_a_file_that_is_there_is_only_checked(site, tmp_path):
    (tmp_path / "a.bin").write_bytes(PAYLOAD)
    download(f"{site.url}/a.bin", tmp_path / "a.bin")
    with pytest.raises(DownloadError, match="sha1 checksum"):
        download(f"{site.url}/a.bin", tmp_path / "a.bin", checksum=Checksum("sha1", "0" * 40))
    assert not site.requests
    assert (tmp_path / "a.bin").exists()


def test_an_archive_cannot_write_outside(tmp_path):
    (tmp_path / "evil.zip").write_bytes(zipped(["data/a.png"], extra=["data/../../outside.png"]))
    with pytest.raises(DownloadError, match="outside"):
        unpack(tmp_path / "evil.zip", "data", tmp_path / "root")
    assert files(tmp_path) == ["evil.zip"]


def test_unpacking_leaves_complete_files_alone(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped(["data/a.png", "data/b.png"]))
    assert unpack(tmp_path / "a.zip", "data", tmp_path) == 2
    whole = (tmp_path / "data/b.png").read_bytes()
    (tmp_path / "data/b.png").write_bytes(whole[:10])
    assert unpack(tmp_path / "a.zip", "data", tmp_path) == 1
    assert (tmp_path / "data/b.png").read_bytes() == whole
    assert files(tmp_path) == ["a.zip", "data/a.png", "data/b.png"]


def test_ade20k_must_have_the_published_checksum(site, tmp_path):
    archive = Archive("ade.zip", "ADE", {"images/training/*.jpg": 2})
    site.files["/ade.zip"] = content = zipped(["ADE/images/training/a.jpg", "ADE/images/training/b.jpg"])
    with pytest.raises(DownloadError, match="sha1 checksum"):
        prepare_ade20k(tmp_path, print, None, archive, f"{site.url}/ade.zip")
    told = []
    right = Checksum("sha1", hashlib.sha1(content).hexdigest())
    prepare_ade20k(tmp_path, told.append, None, archive, f"{site.url}/ade.zip", right)
    assert told == [f"{tmp_path / 'ADE'} is complete; {tmp_path / 'ade.zip'} is no longer needed"]
    assert files(tmp_path) == ["ADE/images/training/a.jpg", "ADE/images/training/b.jpg", "ade.zip"]


@pytest.fixture
def voc_source(site, monkeypatch):
    """What torchvision believes to be the address and checksum of VOC 2012."""
    from torchvision.datasets import voc

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("JPEGImages/a.jpg", "SegmentationClass/a.png", "ImageSets/Segmentation/trainval.txt"):
            member = tarfile.TarInfo(f"VOCdevkit/VOC2012/{name}")
            member.size = 1
            tar.addfile(member, io.BytesIO(b"a"))
    site.files["/voc.tar"] = buffer.getvalue()
    source = {
        **voc.DATASET_YEAR_DICT["2012"],
        "url": f"{site.url}/voc.tar",
        "md5": hashlib.md5(buffer.getvalue()).hexdigest(),
    }
    monkeypatch.setitem(voc.DATASET_YEAR_DICT, "2012", source)
    return Archive(source["filename"], "VOCdevkit/VOC2012", {"JPEGImages/*.jpg": 1, "SegmentationClass/*.png": 1})


def test_voc_comes_by_torchvision_and_the_augmented_masks_by_hand(site, voc_source, tmp_path):
    by_hand = prepare_voc(tmp_path, print, archive=voc_source)
    voc = tmp_path / "VOCdevkit/VOC2012"
    assert (voc / "JPEGImages/a.jpg").is_file()
    assert f"{voc}/SegmentationClassAug/" in by_hand
    assert f"{voc}/ImageSets/Segmentation/train_aug.txt" in by_hand
    (voc / "SegmentationClassAug").mkdir()
    (voc / "ImageSets/Segmentation/train_aug.txt").write_text("a\n")
    assert prepare_voc(tmp_path, print, archive=voc_source) == ""
    assert site.requests == ["GET /voc.tar"]


def test_an_interrupted_voc_goes_on(site, voc_source, tmp_path):
    site.break_after = 600
    with pytest.raises(DownloadError, match="broke off after 600"):
        prepare_voc(tmp_path, print, archive=voc_source)
    site.break_after = None
    prepare_voc(tmp_path, print, archive=voc_source)
    assert site.sent == [0, 600]


def test_a_folder_is_put_together_by_hand(tmp_path):
    by_hand = prepare("folder", tmp_path / "mine", print)
    assert "classes.txt" in by_hand
    assert (tmp_path / "mine").is_dir()


def test_a_dataset_without_a_source_is_refused(tmp_path):
    with pytest.raises(RequestError, match="nothing is to be fetched"):
        prepare("digits", tmp_path, print)


def test_a_root_that_cannot_be_made_is_a_wrong_request(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be made"):
        prepare("ade20k", tmp_path / "file" / "root", print)
