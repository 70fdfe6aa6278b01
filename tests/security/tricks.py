"""Addresses used in attempts at server-side request forgery. Data for :mod:`test_fetch`.

The allowed host is ``pictures.example``. Each address is a spelling that some clients resolve to another host than
it seems to name.
"""

from __future__ import annotations

ALLOWED = "pictures.example"

_LOOPBACK = (
    "127.0.0.1", "127.1", "127.0.1", "127.000.000.001", "2130706433", "0x7f000001", "0x7f.0.0.1", "0x7f.1",
    "017700000001", "0177.0.0.1", "0177.1", "0x7f.0x0.0x0.0x1", "127.0.0.1.", "00127.0.0.1", "0", "0.0.0.0", "0x0",
    "127.127.127.127", "1.1.1.1%00.pictures.example", "127.0.0.1%00", "4294967296", "425.510.425.510", "0.0",
    "localhost", "LOCALHOST", "localhost.", "localhost.localdomain", "ip6-localhost", "loopback",
    "127.0.0.1.nip.io", "localtest.me", "lvh.me", "spoofed.burpcollaborator.net",
)  # fmt: skip
_METADATA = (
    "169.254.169.254", "2852039166", "0xa9fea9fe", "0xa9.0xfe.0xa9.0xfe", "0251.0376.0251.0376", "025177524776",
    "169.254.43518", "169.16689662", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[fd00:ec2::254]",
    "metadata.google.internal", "metadata", "instance-data", "169.254.170.2", "100.100.100.200", "192.0.0.192",
    "168.63.129.16", "[64:ff9b::a9fe:a9fe]", "169.254.169.254.", "169.254.169.254.xip.io",
)  # fmt: skip
_PRIVATE = (
    "10.0.0.1", "10.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.1", "192.168.257", "3232235777",
    "0xc0a80101", "100.64.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "0300.0250.0.1",
)  # fmt: skip
_IPV6 = (
    "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[0000::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
    "[fe80::1]", "[fe80::1%25eth0]", "[fc00::1]", "[ff02::1]", "[2002:7f00:1::]", "[64:ff9b::7f00:1]", "[::1",
    "[2001:0:7f00:1::]", "[::1]:80", "::1", "[v1.x]", "[::ffff:0:127.0.0.1]", "[0:0:0:0:0:ffff:7f00:0001]",
)  # fmt: skip
_USERINFO = (
    "http://pictures.example@127.0.0.1/a.png", "http://127.0.0.1@pictures.example/a.png",
    "http://user:pass@pictures.example/a.png", "http://pictures.example:80@127.0.0.1/a.png",
    "http://127.0.0.1:80@pictures.example:80/a.png", "http://@pictures.example/a.png",
    "http://pictures.example%40127.0.0.1/a.png", "http://pictures.example#@127.0.0.1/a.png",
    "http://127.0.0.1#@pictures.example/", "http://127.0.0.1?@pictures.example/",
    "http://pictures.example?@127.0.0.1/", "http://pictures.example;@127.0.0.1/", "http://a@b@pictures.example/",
)  # fmt: skip
_SLASHES = (
    "http://127.0.0.1\\@pictures.example/", "http://pictures.example\\@127.0.0.1/", "http:\\\\127.0.0.1/",
    "http:/\\127.0.0.1/", "http:///127.0.0.1/", "http:127.0.0.1/", "http:/pictures.example/", "//127.0.0.1/",
    "\\\\127.0.0.1\\x", "http://pictures.example\\.evil.example/", "http:////127.0.0.1/", "/etc/passwd",
    "http://127.0.0.1/pictures.example", "http://pictures.example/a\\..\\b.png", "../../etc/passwd",
)  # fmt: skip
_WHITE = (
    "http://127.0.0.1\t.pictures.example/", "http://pict\nures.example/", "http://pictures.example/\r\nHost: x",
    " http://127.0.0.1/", "http://127.0.0.1 /", "http://pictures.example /", "\x00http://127.0.0.1/",
    "ht\ttp://127.0.0.1/", "http://pictures.example\x00.evil.example/", "http://pictures.example/a b.png",
    "http://pictures.example/\x7f", "http://pictures.example:80\n@127.0.0.1/", "http://127.0.0.1\u2028/",
    "http://pictures.example\x0b/", "http://pictures.example/a.png\r\n\r\nGET /admin", "\u00a0http://127.0.0.1/",
)  # fmt: skip
_UNICODE = (
    "http://pictures\u3002example/", "http://127\u30020\u30020\u30021/", "http://\u2460\u2461\u2466.0.0.1/",
    "http://\uff11\uff12\uff17.0.0.1/", "http://pictures.example\uff0fevil.example/", "http://\uff4cocalhost/",
    "http://p\u0456ctures.example/", "http://xn--pctures-9xa.example/", "http://pictures\uff0eexample/",
    "http://\u24df\u24d8\u24d2tures.example/", "http://pictures.example\u2044@127.0.0.1/", "http://\u2488\u2488/",
    "http://pictures.ex\u00adample/", "http://pictures\uff61example/",
)  # fmt: skip
_NAMES = (
    "pictures.example.evil.example", "evil-pictures.example", "evilpictures.example", "pictures.example.",
    "pictures.example..", "pictures..example", ".pictures.example", "-pictures.example", "pictures", "example",
    "sub.pictures.example", "pictures_example", "pictures.example%2e", "pictures.example%252f",
    "%70ictures.example",
    "evil.example", "pictures.example,evil.example", "", "*", "a" * 64 + ".example", "pictures.example:80:80",
)  # fmt: skip
_PORTS = (
    "pictures.example:22", "pictures.example:6379", "pictures.example:0", "pictures.example:65536",
    "pictures.example:-1", "pictures.example:080", "pictures.example:80a", "pictures.example:99999999999",
    "pictures.example:8000", "pictures.example:+80", "pictures.example:0x50", "pictures.example:11211",
)  # fmt: skip
_SCHEMES = (
    "file:///etc/passwd", "file://localhost/etc/passwd", "FILE:///etc/passwd", "gopher://127.0.0.1:6379/_INFO",
    "ftp://pictures.example/a.png", "dict://127.0.0.1:11211/stat", "ldap://127.0.0.1/", "tftp://127.0.0.1/x",
    "jar:http://127.0.0.1!/", "netdoc:///etc/passwd", "unix:///var/run/docker.sock", "ws://pictures.example/",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/", "javascript:alert(1)", "view-source:http://127.0.0.1/", "httpx://x/",
    "http", "http:", "http://", "blob:http://127.0.0.1/x", "smb://127.0.0.1/x", "url:http://127.0.0.1/",
    "hTTp://127.0.0.1/", "about:blank", "pictures.example/a.png", "https:pictures.example", "s3://bucket/key",
)  # fmt: skip

TRICKS: tuple[str, ...] = (
    *(f"http://{host}/a.png" for host in (*_LOOPBACK, *_METADATA, *_PRIVATE, *_IPV6, *_NAMES, *_PORTS)),
    *_USERINFO,
    *_SLASHES,
    *_WHITE,
    *_UNICODE,
    *_SCHEMES,
    "http://pictures.example/" + "a" * 5000,
)

SPECIAL_ADDRESSES = (
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.1.2.3", "172.16.0.1", "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254", "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16",
    "192.88.99.1", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "2001::1",
    "2001:0:4136:e378::1", "2001:db8::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "3fff::1", "5f00::1", "fc00::1",
    "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "4000::1", "fe80::5efe:7f00:1",
)  # fmt: skip
"""Addresses that are not on the public internet."""
