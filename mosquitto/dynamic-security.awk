# Makes the file of Mosquitto's dynamic-security plugin from two others: the passwords, as mosquitto_passwd hashes them
# (name:$7$iterations$salt$hash), and the ACL.

function quoted(text) {
    gsub(/["\\]/, "\\\\&", text)
    return "\"" text "\""
}

function list(sofar, item) {
    return sofar (sofar == "" ? "" : ",\n") item
}

function allowed(what, topic) {
    return "{\"acltype\": \"" what "\", \"allow\": true, \"topic\": " quoted(topic) "}"
}

# The rights of a user, from the lines of its topics; share names are free.
function rights(lines, name, id,    count, line, words, number, all, access, topic) {
    count = split(lines, line, "\n")
    for (number = 1; number < count; number++) {
        split(line[number], words, " ")
        access = words[2]
        topic = substr(line[number], length("topic " access " ") + 1)
        gsub(/%u/, name, topic)
        gsub(/%c/, id, topic)
        if (access ~ /write$/) all = list(all, allowed("publishClientSend", topic))
        if (access ~ /^read/) {
            all = list(all, allowed("publishClientReceive", topic))
            all = list(all, allowed("subscribePattern", topic))
            all = list(all, allowed("subscribePattern", "$share/+/" topic))
        }
    }
    return all
}

function add(name, id, hash, lines,    part) {
    split(hash, part, "$")
    clients = list(clients, "{\"username\": " quoted(name) (id == "" ? "" : ", \"clientid\": " quoted(id)) \
        ", \"iterations\": " part[3] ", \"salt\": \"" part[4] "\", \"password\": \"" part[5] "\"" \
        ", \"roles\": [{\"rolename\": " quoted(name) "}]}")
    roles = list(roles, "{\"rolename\": " quoted(name) ", \"acls\": [\n" rights(lines, name, id) "]}")
}

FILENAME == ARGV[1] { hashes[substr($0, 1, index($0, ":") - 1)] = substr($0, index($0, ":") + 1); next }
/^(#|$)/ { next }
/^user [^ ]+$/ { user = $2; next }
user != "" && /^clients [^ ]/ { ids[user] = ids[user] substr($0, length("clients ")); next }
user != "" && /^topic (read|write|readwrite) [^ ]/ { topics[user] = topics[user] $0 "\n"; next }
{ print "mosquitto/acl has a line that is none of user, clients and topic: " $0 >"/dev/stderr"; exit wrong = 2 }

END {
    if (wrong) exit wrong
    for (user in hashes) {
        count = split(ids[user], id, " ")
        add(user, id[1], hashes[user], topics[user])
        for (number = 2; number <= count; number++)
            add(user substr(id[number], length(id[1]) + 1), id[number], hashes[user], topics[user])
    }
    print "{\"defaultACLAccess\": {\"publishClientSend\": false, \"publishClientReceive\": false, \"subscribe\": false, \"unsubscribe\": true},"
    print "\"clients\": [\n" clients "],\n\"roles\": [\n" roles "]}"
}
