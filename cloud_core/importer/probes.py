"""Texts the source's pipeline is asked, so that a bundle can be held to its answers: everyday Chinese and English, and hard cases."""

EVERYDAY = (
    "这家面馆的汤头很鲜，面条也筋道，下次还来。",
    "等了一个多小时才上菜，服务员态度还特别差，不会再来了。",
    "房间干净，床很舒服，就是隔音差了点。",
    "手机用了三天就开始发烫，客服推来推去，真让人失望。",
    "物流很快，包装完好，和描述的一样。",
    "国家统计局十月十八日公布，前三季度国内生产总值同比增长百分之四点八。",
    "王小明昨天从上海虹桥站坐高铁去了杭州，晚上住在西湖边的一家民宿。",
    "李娜和张伟在北京大学的实验室里讨论一篇关于图像识别的论文。",
    "中国女排三比一战胜对手，提前一轮出线。",
    "央行宣布下调存款准备金率零点五个百分点，股市应声上涨。",
    "新款电动车续航六百公里，快充半小时可达百分之八十。",
    "这部电影节奏拖沓，演员演技却撑起了全片。",
    "请把明天下午三点的会议改到后天上午十点。",
    "怎么退货？订单号是20250317-8842，急！",
    "孩子发烧三十九度，应该先物理降温还是直接去医院？",
    "他说得对，也不对。",
    "好",
    "不好吃",
    "The room was clean and the staff were friendly, but the breakfast was cold.",
    "Battery life is terrible; it died after two hours of light use.",
    "John Smith moved from New York to London to work for a small bank.",
    "How do I reset my password if I no longer have access to my email?",
    "A fast train, a slow bus, and nothing in between.",
    "ok",
)
MIXED = (
    "我在用 Python 3.11 和 PyTorch 跑 BERT，结果 out of memory 了😂",
    "iPhone 15 Pro Max 降价了，只要￥7,999，比官网便宜 12.5%！",
    "明天 10:30 在 Room B-204 开会，记得带 laptop。",
    "这个 bug 真的 very annoying，重启三次才好……",
    "会议链接：https://example.com/a?b=1&c=2 ，密码 8F3k。",
)
HARD = (
    "太好吃了🍜🍜🍜强烈推荐👍🏽，全家👨‍👩‍👧‍👦都喜欢！",
    "ＡＢＣ１２３：全角字符，也要一样的结果。",
    "café naïve Zürich São Paulo résumé",
    "温度是25℃，面积约3㎡，角度∠90°，①②③",
    "“引号”、《书名》、【括号】——破折号……省略号",
    "空格  很多   ，\t制表符\n换行也有",
    "零宽\u200b字符\ufeff藏在\u200d里面",
    "한국어와 日本語の文章が混ざっている",
    "𠮷野家和𡈽屋都在扩展区，少见但存在",
    "1234567890 3.14159 -42 1,000,000 0x1F",
    "!!!???...",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
)
LONG = (
    "".join(f"第{i}段：今天天气不错，我们沿着河边走了很久，谈了很多关于工作和生活的事情。" for i in "一二三四五六"),
    "The quick brown fox jumps over the lazy dog near the river bank. " * 5,
)
PROBES = (*EVERYDAY, *MIXED, *HARD, *LONG)
