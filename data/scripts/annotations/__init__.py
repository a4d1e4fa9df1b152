"""Labels that people have in other formats: COCO JSON, VOC XML and LabelMe JSON, read into one form."""
