"""Finding better schedules. This file must exist: it is what makes `import search` mean this folder beside search.py."""
