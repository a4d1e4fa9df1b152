"""Files of tensors: those of ``torch.save``, read as data and checked as a whole before any object is created.

``container`` reads the zip archive and ``legacy`` the older format; ``unpickle`` turns the pickle inside into the inert
records of ``records``, with ``calls`` for what a pickle may call; ``judge`` checks the whole, and only then ``build``
creates tensors and plain values. Modules are created by ``models.checkpoints.rebuilding``, which knows their classes.
``safetensors_file`` reads and writes the format without code; ``module_copy`` copies a network that is to be saved.
"""
