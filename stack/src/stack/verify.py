def verify(*a):
    return 0
