"""Files of ``torch.save`` as data: read and judged whole, by code of our own, before any object is made of them.

``container`` reads the zip archive and ``legacy`` the format before it; ``unpickle`` turns the pickle inside into the
inert records of ``records``, with ``calls`` for what a pickle may call; ``judge`` looks at the whole, and only then
``build`` makes tensors and plain values. Modules are made by ``models.checkpoints.rebuilding``, which knows their
classes.
"""
