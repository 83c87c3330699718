"""Archives that make_dataset.py must refuse: damaged ones, and some with wrong files."""

import io
import tarfile

FOLDER = "n02085936-Maltese_dog"
JPG = f"Images/{FOLDER}/n02085936_99.jpg"


def member(name, content=b"x", file_type=tarfile.REGTYPE, **fields):
    """Return a member of a tar archive: its TarInfo and its content."""
    info = tarfile.TarInfo(name)
    info.type, info.size = file_type, len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def make_tar(members, format=tarfile.GNU_FORMAT):
    """Return a tar archive as bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def good_members(top, suffix="", number=5, size=700):
    """Return members as the real archives have them."""
    return [
        member(f"{top}/{FOLDER}/n02085936_{k}{suffix}", bytes([k]) * size) for k in range(number)
    ]


def images(*extra, **options):
    """Return a good images.tar with further members."""
    return make_tar([*good_members("Images", ".jpg"), *extra], **options)


def annotations(number=5, *extra):
    """Return a good annotation.tar with further members."""
    return make_tar([*good_members("Annotation", number=number), *extra])


def pax(headers):
    """Return an images.tar with one further member, which has these pax headers."""
    return images(member(JPG, pax_headers=headers), format=tarfile.PAX_FORMAT)


def raw_header(name=JPG, size=b"%011o\0" % 1, file_type=b"0", magic=b"ustar\x0000"):
    """Return a raw header with a correct checksum and fields that tarfile would not write."""
    block = bytearray(512)
    block[: len(name)] = name.encode()
    block[100:108], block[124:136], block[156:157], block[257:265] = (
        b"0000644\0",
        size,
        file_type,
        magic,
    )
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def hostile_archives():
    """Return {what it is: (images.tar, annotation.tar)}."""
    good, good_annotations, members = images(), annotations(), good_members("Images", ".jpg")
    body = make_tar(members).rstrip(b"\0")
    body += bytes(-len(body) % 512)  # the members without the zero blocks at the end
    end = bytes(1024)
    link = tarfile.SYMTYPE
    bad = {
        # names that lead out of the folder
        "absolute": images(member("/tmp/dogs_outside.jpg")),
        "absolute in layout": images(member("/Images/n02085936-Maltese_dog/n02085936_99.jpg")),
        "parent": images(member("../outside.jpg")),
        "parents": images(member("../../../../outside.jpg")),
        "parent inside": images(member(f"Images/{FOLDER}/../../../outside.jpg")),
        "parent as breed": images(member("Images/../outside.jpg")),
        "parent as folder": images(member(f"Images/{FOLDER}/../../..", b"", tarfile.DIRTYPE)),
        "double slash": images(member(f"Images//{FOLDER}/n02085936_99.jpg")),
        "dot inside": images(member(f"Images/./{FOLDER}/n02085936_99.jpg")),
        "backslashes": images(member(f"Images\\{FOLDER}\\..\\..\\outside.jpg")),
        "drive letter": images(member("C:/outside.jpg")),
        "line break in name": images(
            member(f"Images/{FOLDER}/a\nmake_dataset.py: all is well.jpg")
        ),
        "terminal codes in name": images(member(f"Images/{FOLDER}/\x1b[1m.jpg")),
        "not UTF-8": images(member(f"Images/{FOLDER}/\udcff\udcfe.jpg")),
        "lookalike letters": images(member(f"Imag\u0435s/{FOLDER}/n02085936_99.jpg")),
        "digits of another script": images(
            member("Images/n0208593\u0666-Maltese_dog/n02085936_99.jpg")
        ),
        "hidden file": images(member(f"Images/{FOLDER}/.bashrc")),
        "endless name": images(member(f"Images/{FOLDER}/{'a' * 5000}.jpg")),
        "endless name, pax": images(
            member(f"Images/{FOLDER}/{'a' * 5000}/x.jpg"), format=tarfile.PAX_FORMAT
        ),
        "pax path": pax({"path": "../../outside.jpg"}),
        # other than regular files
        "symbolic link": images(member(JPG, b"", link, linkname="/dog.jpg")),
        "link to folder": images(
            member(f"Images/{FOLDER}x", b"", link, linkname="/tmp"),
            member(f"Images/{FOLDER}x/1.jpg"),
        ),
        "link for top": make_tar([member("Images", b"", link, linkname="/tmp"), *members]),
        "link for breed": make_tar(
            [member(f"Images/{FOLDER}", b"", link, linkname="../.."), *members]
        ),
        "hard link": images(member(JPG, b"", tarfile.LNKTYPE, linkname="/dog.jpg")),
        "hard link inside": images(member(JPG, b"", tarfile.LNKTYPE, linkname=members[0][0].name)),
        "character device": images(member(JPG, b"", tarfile.CHRTYPE, devmajor=1, devminor=5)),
        "block device": images(member(JPG, b"", tarfile.BLKTYPE, devmajor=8, devminor=0)),
        "fifo": images(member(JPG, b"", tarfile.FIFOTYPE)),
        "unknown kind": images(member(JPG, b"x", b"Z")),
        "sparse, old": body + raw_header(file_type=b"S", magic=b"ustar  \0") + end,
        "sparse, pax": pax(
            {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
        ),
        "sparse map, pax": pax({"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"}),
        # impossible sizes
        "8 GB in a header": body + raw_header(size=b"77777777777\0") + b"x" * 512 + end,
        "size is no number": body + raw_header(size=b"zzzzzzzzzzz\0") + end,
        "huge real member": images(member(JPG, bytes(65 * 2**20))),
        "folder with content": body
        + raw_header(f"Images/{FOLDER}/", file_type=b"5", size=b"%011o\0" % 512)
        + b"x" * 512
        + end,
        # duplicates
        "same name twice": images(members[0]),
        "same name in capitals": images(member(members[0][0].name.replace("Maltese", "MALTESE"))),
        "same name with ./": images(member("./" + members[0][0].name)),
        "two archives in one": body + good,
        # cut off or not an archive
        "empty": b"",
        "nothing but the end": bytes(10240),
        "no end": body,
        "cut in a header": good[: 1536 + 200],
        "cut in a file": good[: 512 + 300],
        "cut between files": good[:3072],
        "damaged header": good[:1536] + b"\xff" * 512 + good[2048:],
        "damaged checksum": good[:1686] + b"9" + good[1687:],
        "web page": b"<!doctype html><title>Please log in</title>" * 40,
        "text": b"hello\n",
        "zip": b"PK\x03\x04" + bytes(2000),
        "noise": bytes(range(256)) * 40,
        # wrong layout
        "no folders": make_tar([member("n02085936_1.jpg")]),
        "no breed": images(member("Images/n02085936_99.jpg")),
        "too deep": images(member(f"Images/{FOLDER}/more/n02085936_99.jpg")),
        "other top": images(member(f"Pictures/{FOLDER}/n02085936_99.jpg")),
        "annotation among images": images(member(f"Annotation/{FOLDER}/n02085936_99")),
        "other breed names": make_tar([member("Images/Maltese/1.jpg")]),
        "other files": images(member(f"Images/{FOLDER}/setup.py")),
        "file as folder": images(member(f"Images/{FOLDER}", b"x")),
        "only folders": make_tar([member("Images", b"", tarfile.DIRTYPE)]),
    }
    archives = {what: (content, good_annotations) for what, content in bad.items()}
    for packed in ("gz", "bz2", "xz"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=f"w:{packed}") as tar:
            tar.addfile(members[0][0], io.BytesIO(members[0][1]))
        archives[f"compressed, {packed}"] = (buffer.getvalue(), good_annotations)
    archives["an annotation too few"] = (good, annotations(4))
    archives["an annotation too many"] = (good, annotations(6))
    linked = member(f"Annotation/{FOLDER}/n02085936_4", b"", link, linkname="/dog.xml")
    archives["annotation as a link"] = (good, annotations(4, linked))
    return archives
