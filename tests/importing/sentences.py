"""Over two hundred sentences with the hard cases: what pipelines and bundles are compared on."""

from cloud_core.importer.probes import PROBES

CLAUSES = (
    "这家店的牛肉面味道不错",
    "服务员态度很差",
    "房间又小又旧",
    "物流比想象的快",
    "手机屏幕有点暗",
    "王小明在杭州西湖边散步",
    "李娜加入了北京大学",
    "阿里巴巴集团发布了新产品",
    "股市今天下跌了百分之二",
    "球队在最后一分钟进球",
    "the hotel room was very clean",
    "I love this phone",
    "bad service and slow food",
    "John Smith works in London",
)
JOINTS = ("，", "。", " but ", "，但是", "！😀", " & ", "\n", "；", "  ", "，100% ")
HARD = (
    " ",
    "\t",
    "\u3000",
    "\u200d",
    "\ufe0f",
    "\x00",
    "\x01\x02控制字符",
    "a\u0301e\u0300 组合重音",
    "cafe\u0301 re\u0301sume\u0301 e\u0301 u\u0308ber",
    "Å Å Ω Ω K K 〈 〉",
    "İstanbul'da ŞİŞLİ ığüşöç",
    "ΟΔΥΣΣΕΥΣ Σίσυφος ς",
    "straße STRASSE ﬁn ﬂat",
    "👨‍👩‍👧‍👦👩🏽‍🚀🏳️‍🌈🇨🇳❤️",
    "😀" * 40,
    "ＡＢＣｄｅｆ１２３　！？",
    "①②③⑩㈱℃№½¾",
    "1234567890" * 6,
    "3.1415926，-273.15℃，1/3，50%，￥99.90",
    "あいうえお カタカナ ｶﾞｷﾞｸﾞ",
    "각 가 힣 ᄀᄁ",
    "𠮷𡈽𠀀𪚥 扩展B区",
    "\u200b\u200c\u200d\ufeff零宽\u00ad软连字符",
    "替换\ufffd字符",
    "[MASK] [mask] [CLS] [unused1] [PAD]",
    "#井号 @用户 http://a.cn/?x=1&y=2#z",
    "don't isn't it's we're",
    "x" * 99,
    "x" * 100,
    "x" * 101,
    "，。！？；：、…—",
    "\u2028\u2029\u0085行分隔",
    "a\xa0b\u202fc不换行空格",
    "ⅣⅫ ⅳ ㍿ ㌔",
    "العربية עברית ไทย हिन्दी",
    "a",
    "的",
)
LENGTHS = ("好" * 126, "好" * 127, "好" * 254, "好" * 509, "好" * 510, "今天天气" * 127, "很" * 300 + "bad food " * 20)
OVER = ("好" * 511, "今天天气不错，" * 120, "the room was clean " * 160, "字" * 3000)
"""Longer than 512 tokens."""
EMPTY = ("",)
PROMPTS = ("[SEP]开头就是", "王小明在杭州[SEP]他住在西湖边")
"""With what taggers of ModelScope take for the beginning of a prompt."""


def sentences() -> list[str]:
    """All of them, none twice, the empty one not among them."""
    made = [f"{first}{joint}{second}" for first in CLAUSES for joint, second in zip(JOINTS, CLAUSES[1:], strict=False)]
    return list(dict.fromkeys((*PROBES, *HARD, *CLAUSES, *made, *LENGTHS, *OVER)))
