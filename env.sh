# Puts where the stack listens into this shell: `. ./env.sh`, in the folder of this file, after the first `make up`.
# As for make, the environment beats .env, and .env beats the defaults.
eval "$(.venv/bin/python -m stack env || echo false)"
