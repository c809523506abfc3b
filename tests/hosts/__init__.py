"""What a deployed host really is, asked with other tools than those that made it so. Read-only.

    pytest tests/hosts --inventory inventories/single.py

Takes pyinfra's inventory file and imports nothing of the bundle: what is expected here is written here.
"""
