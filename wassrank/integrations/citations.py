"""What model cards cite."""

SYCL = """
@inproceedings{esfandiarpoor2025beyond,
    title = "Beyond Contrastive Learning: Synthetic Data Enables List-wise Training with Multiple Levels of Relevance",
    author = "Esfandiarpoor, Reza and others",
    booktitle = "Findings of the Association for Computational Linguistics: EMNLP 2025",
    year = "2025",
    pages = "22860--22882"
}
"""

GRAD_CACHE = """
@misc{gao2021scaling,
    title = "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
    author = "Gao, Luyu and Zhang, Yunyi and Han, Jiawei and Callan, Jamie",
    year = "2021",
    eprint = "2101.06983",
    archivePrefix = "arXiv"
}
"""
