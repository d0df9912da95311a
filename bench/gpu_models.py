"""x"""
def models(run): pass
def training(run): pass
def task(run): pass
