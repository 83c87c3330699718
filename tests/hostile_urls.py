"""URLs that the service refuses: not public, or not of a plain form. None may lead to a prediction.
Addresses that hold a public IPv4 address are refused as well.
"""

# ruff: noqa: RUF001

words = str.split
LOOPBACK = words("""
    127.0.0.1 127.1 127.0.1 127.1.2.3 127.255.255.254 127.0.0.1. 127.000.000.001 2130706433
    0x7f000001 0x7F.0.0.1 0x7f.1 0177.0.0.1 0177.1 017700000001 00000177.0.0.1 0x7f.0x0.0x0.0x1
    0177.0x0.0.1 0 0.0.0.0 00 0x0 0.1 [::1] [::] [0:0:0:0:0:0:0:1]
    [0000:0000:0000:0000:0000:0000:0000:0001] [::ffff:127.0.0.1] [::ffff:7f00:1] [::FFFF:7F00:0001]
    [0:0:0:0:0:ffff:127.0.0.1] [::93.184.216.34] [::5db8:d822] [::ffff:0:5db8:d822]
    [64:ff9b::127.0.0.1] [64:ff9b:1::7f00:1] [2002:7f00:1::] [2001:0:7f00:1::]
    [::1%25lo] [::ffff:0.0.0.0] localhost
    LOCALHOST localhost. LocalHost.LocalDomain ip6-localhost
""")
PRIVATE = words("""
    10.0.0.1 167772161 0xa000001 012.0.0.1 10.1 172.16.0.1 172.31.255.254 2886729729 192.168.0.1
    3232235521 0xc0a80001 192.168.1 100.64.0.1 100.100.100.200 168.63.129.16 169.254.1.1
    169.254.170.2 169.254.79.129 192.0.0.8 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1
    198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 [fc00::1]
    [fd00::1] [fd00:ec2::254] [fe80::1] [fe80::1%25lo] [fec0::1] [ff02::1] [100::1] [2001:db8::1]
    [3fff::1] [5f00::1] [::ffff:10.0.0.1] [::ffff:c0a8:1] [64:ff9b::10.0.0.1] [2002:a00:1::]
""")
METADATA = words("""
    169.254.169.254 2852039166 0xA9FEA9FE 0xa9.0xfe.0xa9.0xfe 0251.0376.0251.0376 025177524776
    169.16689662 [::ffff:169.254.169.254] [::ffff:a9fe:a9fe] [64:ff9b::a9fe:a9fe]
""")
UNICODE = words(
    "127。0。0。1 ①②⑦.⓪.⓪.① １２７.0.0.1 ⓛⓞⓒⓐⓛⓗⓞⓢⓣ loc\u00adalhost 127.0.0.1\u200b "
    "ⅼocalhost １６９.２５４.169.254"
)
NAMES = words("""
    loopback.example loopback6.example private.example metadata.example mapped.example
    mixed.example mixed6.example first.mixed.example alias.example LOOPBACK.EXAMPLE
    loopback.example. changing.example 7f000001.changing.example unknown.example
""")
SCHEMES = words("""
    file:///dog.jpg FILE:///dog.jpg file://127.0.0.1/dog.jpg file:/dog.jpg
    ftp://127.0.0.1/a.jpg gopher://127.0.0.1/ dict://127.0.0.1/
    ldap://127.0.0.1:80/ sftp://127.0.0.1/ tftp://127.0.0.1/a ws://127.0.0.1/
    data:image/png;base64,iVBORw0KGgo= javascript:0 jar:http://127.0.0.1/!/
    view-source:http://127.0.0.1/ blob:http://127.0.0.1/ http+unix://%2Ftmp%2Fsocket/
    unix:///tmp/socket s3://bucket/dog.jpg httpx://127.0.0.1/ https+http://127.0.0.1/ about:blank
    //127.0.0.1/ /dog.jpg 127.0.0.1 localhost:80
""")
CONFUSING = words(r"""
    http://user:password@public.example/dog.jpg http://user@public.example/dog.jpg
    http://:@public.example/dog.jpg http://@public.example/dog.jpg http://user@127.0.0.1/
    http:\\public.example\dog.jpg http://public.example\dog.jpg http:/127.0.0.1/ http:127.0.0.1/
    http:///127.0.0.1/ http://[::1 http://::1/ http://]::1[/ http://[127.0.0.1]/
    http://[public.example]/dog.jpg http://127.0.0.1:80:80/ http://.127.0.0.1/ http://127..0.0.1/
    http://256.256.256.256/ http://1.2.3/ http://-/ http://./ http://../ http://*/ http://%/
    http://?/ http://#/ http:// https:// http: http :
""")
CONFUSING += [
    "http://public.example /dog.jpg",
    "http://public.example\u00a0/dog.jpg",
    "http://public.example\n@127.0.0.1/",
    "http:\n//127.0.0.1/",
    "\ufeff\u200bhttp://127.0.0.1/\u00a0",
    "http://public.example/302?http://127.0.0.1/ a",
    " http://127.0.0.1/",
    "http://127.0.0.1/ ",
    "\thttp://127.0.0.1/",
    "http://127.0.0.1\t/",
    "ht\ntp://127.0.0.1/",
    "http://public.example/\x00",
    "",
]
PORTS = [
    f"http://public.example:{port}/dog.jpg"
    for port in words("22 25 443 6379 8080 9001 0 65536 99999 -1 +80 8_0 abc ８０80")
]
PORTS += [
    "https://public.example:80/dog.jpg",
    "http://127.0.0.1:6379/",
    "http://127.0.0.1:9001/2018-06-01/runtime/invocation/next",
]
LONG = [
    "http://public.example/dog.jpg?" + "a" * 8192,
    "http://public.example/dog.jpg?" + "a" * 100_000,
    f"http://{'a' * 64}.example/",
    f"http://{'a.' * 200}example/",
    f"http://{'ö' * 70}.example/",
    f"http://{'0' * 1000}127.0.0.1/",
]
NOT_TEXT = [None, 5, 1.5, True, [], {}, ["http://127.0.0.1/"], {"url": "http://127.0.0.1/"}]
TARGETS = [
    f"http://{host}/" for host in (*LOOPBACK[::3], *PRIVATE[::4], *METADATA[::2], *NAMES[:8:2])
]
TARGETS += words(r"""
    https://127.0.0.1/ //127.0.0.1/ http:127.0.0.1/ ///127.0.0.1/ /\127.0.0.1/
    http://127.0.0.1:6379/ http://public.example:6379/ http://user:password@public.example/dog.jpg
    http://public.example@127.0.0.1/ file:///dog.jpg ftp://127.0.0.1/ gopher://127.0.0.1:80/_
    data:image/png;base64,iVBORw0KGgo= http://１２７.0.0.1/
""")


def direct_urls() -> list:
    """All that need no server in between, some 300."""
    hosts = [*LOOPBACK, *PRIVATE, *METADATA, *UNICODE, *NAMES]
    urls = [f"http://{host}/latest/meta-data/" for host in hosts] + [
        f"https://{host}/" for host in hosts[::5]
    ]
    return [*urls, *SCHEMES, *CONFUSING, *PORTS, *LONG, *NOT_TEXT]


def redirecting_urls() -> list[str]:
    """A public server that sends on to what is not public, in one step or in several."""
    urls = [f"http://public.example/302?{url}" for url in TARGETS]
    urls += [f"http://public.example/{status}?http://127.0.0.1/" for status in (301, 303, 307, 308)]
    urls += [
        "http://public.example/302?http://public.example/302?http://127.0.0.1/",
        "https://public.example/302?http://127.0.0.1/",
    ]
    return [
        *urls,
        "http://public.example/steps/11",
        "http://public.example/loop",
        "http://public.example/refresh",
    ]
