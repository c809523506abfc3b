"""One Redis host and the hosts of the app that uses it, over SSH. Put your own names in and deploy:

    pyinfra inventories/single.py deploys/secure_redis.py

A host may stand in both groups. Per-host settings go beside the name: ("redis-1.example.com", {"redis_bind": [...]}).
"""

redis = ["redis-1.example.com"]
app = ["app-1.example.com"]
