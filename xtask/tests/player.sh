#!/bin/bash
# Plays the machine for the tests of the console: boot text, prompts with a status, an echo of what is typed.
printf 'the core is up\r\n\033[1mdom0\033[0m> '
while IFS= read -r -d $'\r' line; do
    printf '%s\r\n' "$line"
    case "$line" in
        list) printf 'name id\r\ndom0 0\r\ndom0> ';;
        slow) sleep 5; printf 'dom0> ';;
        panic) printf '[ 1.000000] CORE PANIC on CPU 1: why\r\n  rip 0xffffffff80000000\r\n'; sleep 60;;
        poweroff) printf 'goodbye\r\n'; exit 1;;
        'poweroff 3') exit 7;;
        reset) exit 0;;
        *) printf 'no such command: %s\r\ndom0 [2]> ' "$line";;
    esac
done
