# Redirections of bash: to devices, files, pipes, here-documents, and to TCP. shell.sh PORT-OF-AN-ECHO-SERVER
set -e -o pipefail
echo > /dev/null
echo one > file; echo two >> file
[ "$(cat file)" = $'one\ntwo' ]
[ "$(cat < file | sort -r | head -1)" = two ]
read -r line <<< 'here'; [ "$line" = here ]
[ "$(cat <<'END'
document
END
)" = document ]
exec 7> out 8< file; echo seven >&7; read -r -u 8 line; exec 7>&- 8<&-
[ "$(cat out) $line" = 'seven one' ]
{ echo err >&2; } 2> out; [ "$(cat out)" = err ]
diff <(seq 1000) <(seq 1000)
(exec 3>&1 1>/dev/null; echo kept >&3) | grep -q kept
exec {named}> out; echo named >&$named; exec {named}>&-; [ "$(cat out)" = named ]

exec 9<> /dev/tcp/127.0.0.1/$1
for i in $(seq 60); do
    echo "line $i" >&9
    read -r -u 9 -t 20 line
    [ "$line" = "line $i" ]
done
seq 30000 > numbers
cat numbers >&9 &
head -c "$(stat -c %s numbers)" <&9 > back
wait $!
cmp numbers back
exec 9>&-
echo ok
