"""Runs the /mesh/* routes of a real SuperLocalMemory 3.4.48 on loopback: slm_daemon.py PORT DBFILE"""

import os
import sqlite3
import sys

os.environ.setdefault("SLM_SKIP_DEP_CHECK", "1")  # no probe for model libraries

import uvicorn
from fastapi import FastAPI
from superlocalmemory.mesh.broker import MeshBroker
from superlocalmemory.server.routes.mesh import router
from superlocalmemory.storage.schema_v343 import apply_v343_schema, apply_v346_schema

port, db = int(sys.argv[1]), sys.argv[2]
with sqlite3.connect(db) as conn:
    apply_v343_schema(conn)
    apply_v346_schema(conn)
app = FastAPI()
app.include_router(router)
app.state.config = None
app.state.mesh_broker = MeshBroker(db)
app.state.mesh_broker.start_cleanup()  # also polls the mesh at SLM_MESH_PEER_URL
uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
