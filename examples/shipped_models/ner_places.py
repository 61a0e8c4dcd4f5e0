"""Names of places for the NER grammar, from provinces to streets, and runs of them as in an address."""

from __future__ import annotations

from examples.shipped_models.ner_choices import Choices


class Places(Choices):
    """Draws places."""

    def province(self) -> str:
        """A province, with or without its suffix."""
        if self.chance(0.2):
            return self.pick(self.places["provinces_full"])
        return self.pick(self.places["provinces"])

    def city(self) -> str:
        """A Chinese city, mostly without 市."""
        draw = self.rng.random()
        if draw < 0.74:
            words = self.places["cities"]
            name = words[int(len(words) * self.rng.random() ** 1.4)]
            return name + ("市" if len(name) < 4 and self.chance(0.16) else "")
        if draw < 0.84:
            return self.pick(self.dictionary.places)
        if draw < 0.92:
            return self.bare(self.pick(self.places["counties"]))
        return self.made_up(1, 2) + self.pick("市州市阳城江山安宁")

    @staticmethod
    def bare(name: str) -> str:
        """A county's name without its suffix, where something of two characters is left."""
        return name[:-1] if len(name) > 2 and name[-1] in "县市区" else name

    def district(self) -> str:
        """A district, county, town or village."""
        draw = self.rng.random()
        if draw < 0.3:
            return self.pick(self.places["districts"])
        if draw < 0.62:
            name = self.pick(self.places["counties"])
            return self.bare(name) if self.chance(0.25) else name
        if draw < 0.76:
            return self.made_up(1, 2) + self.pick("县县市区镇乡村旗州")
        if draw < 0.88:
            return self.stem() + self.pick(["镇", "乡", "村", "街道", "社区", "镇", "村"])
        return self.pick(self.dictionary.places)

    def stem(self) -> str:
        """The stem of a local name: a known place's or made up."""
        if self.chance(0.4):
            return self.bare(self.pick(self.places["counties"]))
        if self.chance(0.3):
            return self.pick(self.orgs["newbrand"])
        return self.made_up(1, 2) + self.pick("家阳山河沟桥店庄门口头湾林塘坪关城安平水石")

    def foreign_place(self) -> str:
        """A foreign city or region."""
        draw = self.rng.random()
        if draw < 0.8:
            return self.pick(self.places["foreign"])
        if draw < 0.9:
            return self.pick(self.dictionary.foreign_names) + self.pick(["市", "州", "省", "岛", "堡", "港", "地区"])
        return self.transliterated(2, 4) + self.pick(["", "", "市", "州", "省", "岛", "堡", "地区"])

    def water(self) -> str:
        """A river, lake, sea or island."""
        return self.one_of_places("waters", 0.62, lambda: self.made_up(1, 3) + self.pick("河江湖溪湾岛潭海"))

    def scenic(self) -> str:
        """A sight, park, station or quarter."""
        draw = self.rng.random()
        if draw < 0.7:
            return self.pick(self.places["scenic"])
        if draw < 0.85:
            return self.stem() + self.pick(self.places["suffix_nature"][10:])
        return self.pick(self.places["cities"]) + self.pick(
            [
                "站",
                "南站",
                "火车站",
                "机场",
                "东站",
                "植物园",
                "动物园",
                "古城",
                "国际机场",
                "高铁站",
                "人民公园",
                "老街",
                "体育馆",
                "体育场",
                "港",
            ],
        )

    def street(self) -> str:
        """A street, or a quarter called like one."""
        if self.chance(0.45):
            return self.pick(self.places["streets"])
        tail = self.pick(
            ["路", "路", "街", "大街", "大道", "巷", "胡同", "北路", "南路", "东路", "西路", "中路", "三路"]
        )
        stem = self.pick(self.places["cities"]) if self.chance(0.3) else self.stem()
        return (self.pick(self.orgs["newbrand"]) if self.chance(0.4) else stem) + tail

    def address(self) -> str:
        """A run of places from large to small, which counts as one place."""
        parts = []
        if self.chance(0.6):
            parts.append(self.province())
        if not parts or parts[0][-1] != "市":
            city = self.pick(self.places["cities"])
            parts.append(city + ("市" if len(city) < 4 and self.chance(0.7) else ""))
        if self.chance(0.7):
            parts.append(
                self.pick(self.places["districts"]) if self.chance(0.6) else self.pick(self.places["counties"])
            )
        if self.chance(0.3):
            parts.append(self.stem() + self.pick(["镇", "街道", "乡"]))
        if self.chance(0.5) or len(parts) < 2:
            parts.append(
                self.street() if self.chance(0.75) else self.stem() + self.pick(["村", "小区", "花园", "社区"])
            )
        return "".join(parts)
