"""Names for every entity slot of the NER grammar; organisations are composed here, out of places and brands.

A builder returns text only; the grammar knows the type from the slot. Breadth matters more than realism: each kind
mixes well-known names, composed ones and some with characters drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from examples.shipped_models.ner_people import People
from examples.shipped_models.ner_places import Places


class Names(People, Places):
    """Draws names for every entity slot of the grammar."""

    def draw(self, slot: str) -> str:
        """A name for an entity slot such as `PC` or `OU`."""
        return self.builders[slot]()

    @cached_property
    def builders(self) -> dict[str, Callable[[], str]]:
        """The builder of each slot."""
        return {
            "P": self.person,
            "PC": self.chinese,
            "PF": self.foreign,
            "SURT": self.surname,
            "NICK": self.nickname,
            "L": self.place,
            "LP": self.province,
            "LC": self.city,
            "LD": self.district,
            "LK": lambda: self.one_of_places(
                "countries", 0.97, lambda: self.transliterated(2, 5) + self.pick("国斯亚兰")
            ),
            "LCN": lambda: "中国",
            "LF": self.foreign_place,
            "LG": lambda: self.pick(self.places["regions"]),
            "LM": lambda: self.one_of_places(
                "mountains", 0.6, lambda: self.made_up(1, 3) + self.pick("山山山山峰岭崖坡")
            ),
            "LW": self.water,
            "LS": self.scenic,
            "LR": self.street,
            "LA": self.address,
            "O": self.organisation,
            "OC": self.company,
            "OU": self.university,
            "OG": self.government,
            "OH": self.hospital,
            "OT": self.team,
            "OM": self.media,
            "OB": lambda: self.one_of_orgs(
                "banks", 0.8, lambda: self.stem() + self.pick(["银行", "农商银行", "村镇银行"])
            ),
            "OBB": lambda: self.pick(self.orgs["banks"][:27]) + self.city() + self.pick(["分行", "支行"]),
            "OA": self.association,
            "OJ": self.court,
            "OS": self.school,
        }

    def place(self) -> str:
        """Any place."""
        return self.draw(self.pick(["LP", "LC", "LC", "LD", "LK", "LF", "LM", "LW", "LS", "LR", "LA", "LG"]))

    def organisation(self) -> str:
        """Any organisation."""
        kinds = ["OC", "OC", "OC", "OU", "OG", "OG", "OH", "OT", "OM", "OB", "OA", "OJ", "OS"]
        return self.draw(self.pick(kinds))

    def seat(self) -> str:
        """The place in an organisation's name."""
        draw = self.rng.random()
        if draw < 0.5:
            return self.city()
        if draw < 0.68:
            return self.province()
        if draw < 0.86:
            return self.district()
        return self.pick(self.places["cities"]) + "市" + self.bare(self.pick(self.places["districts"])) + "区"

    def brand(self) -> str:
        """A made-up brand."""
        draw = self.rng.random()
        if draw < 0.4:
            return self.pick(self.orgs["newbrand"])
        if draw < 0.75:
            return self.pick(self.orgs["brand_a"]) + self.pick(self.orgs["brand_b"])
        return self.made_up(2, 3)

    def company(self) -> str:
        """A company: known, or place + brand + industry + form."""
        orgs, draw = self.orgs, self.rng.random()
        if draw < 0.56:
            return self.famous(orgs["companies"])
        if draw < 0.6:
            return self.pick(orgs["companies"]) + self.pick(["公司", "集团", "科技", "中国", "汽车"])
        place = self.city() if self.chance(0.5) else ""
        industry = self.pick(orgs["industry"]) if self.chance(0.8) else ""
        tail = self.pick(orgs["suffix_company"]) if self.chance(0.75) or not industry else ""
        if place and self.chance(0.08):
            return f"{self.brand()}（{place}）{industry}有限公司"
        if place and industry and self.chance(0.15):
            return place + industry + self.pick(["公司", "集团", "厂", "总公司", "有限公司"])
        if self.chance(0.08):
            tail = self.pick(
                ["饭店", "酒店", "大酒店", "超市", "商场", "餐厅", "饭庄", "书店", "影城", "百货", "宾馆", "面馆"]
            )
            return place + self.brand() + tail
        return place + self.brand() + industry + tail

    def university(self) -> str:
        """A university, sometimes with a department."""
        name = self.one_of_orgs(
            "universities", 0.72, lambda: self.seat_plain() + self.pick(self.orgs["suffix_school"][:16])
        )
        if self.chance(0.06):
            name = (self.foreign_place() if self.chance(0.7) else self.transliterated(2, 4)) + self.pick(
                ["大学", "理工学院"]
            )
        return name + (self.pick(self.orgs["dept"]) if self.chance(0.1) else "")

    def seat_plain(self) -> str:
        """A province or city without suffix."""
        return self.pick(self.places["provinces" if self.chance(0.4) else "cities"])

    def government(self) -> str:
        """A government body or political organisation."""
        draw = self.rng.random()
        if draw < 0.5:
            return self.famous(self.orgs["government"])
        if draw < 0.82:
            return self.seat() + self.pick(self.orgs["suffix_gov"])
        if draw < 0.93:
            bodies = [
                "政府",
                "外交部",
                "国防部",
                "议会",
                "国会",
                "央行",
                "财政部",
                "内政部",
                "总统府",
                "驻华大使馆",
                "最高法院",
                "卫生部",
                "统计局",
                "海军",
                "空军",
                "人民党",
                "民主党",
                "共产党",
                "反对党",
            ]
            return self.draw("LK") + self.pick(bodies)
        field = self.pick(self.orgs["industry"])
        return "国家" + field + self.pick(["局", "总局", "管理局", "委员会", "办公室", "管理委员会"])

    def hospital(self) -> str:
        """A hospital."""
        return self.one_of_orgs("hospitals", 0.45, lambda: self.seat() + self.pick(self.orgs["suffix_hospital"]))

    def team(self) -> str:
        """A sports team."""
        if self.chance(0.55):
            return self.famous(self.orgs["teams"])
        seat = self.draw("LK") if self.chance(0.55) else self.seat_plain()
        return seat + (self.brand() if self.chance(0.12) else "") + self.pick(self.orgs["suffix_team"])

    def media(self) -> str:
        """A newspaper, station or agency."""
        return self.one_of_orgs("media", 0.66, lambda: self.seat_plain() + self.pick(self.orgs["suffix_media"]))

    def association(self) -> str:
        """An association, troupe, museum, club or foundation."""
        draw, orgs = self.rng.random(), self.orgs
        if draw < 0.5:
            return self.famous(orgs["assoc"])
        if draw < 0.75:
            return self.seat() + self.pick(orgs["suffix_assoc"])
        seat = self.pick(["中国", "中华", "全国", "世界", "国际", "亚洲"]) if self.chance(0.6) else self.province()
        return seat + self.pick(orgs["china_assoc_field"]) + self.pick(orgs["china_assoc_tail"])

    def court(self) -> str:
        """A court or procuratorate."""
        return self.one_of_orgs("suffix_gov", 0.0, lambda: self.seat() + self.pick(self.orgs["suffix_court"]))

    def school(self) -> str:
        """A school."""
        if self.chance(0.1):
            return self.pick(
                ["北大附中", "清华附中", "人大附中", "衡水中学", "黄冈中学", "北京四中", "上海中学", "华师一附中"]
            )
        return (self.seat() if self.chance(0.8) else self.brand()) + self.pick(self.orgs["suffix_school"][16:])
