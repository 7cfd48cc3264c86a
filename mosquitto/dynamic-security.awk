# Makes the file of Mosquitto's dynamic-security plugin from two other files: the passwords as mosquitto_passwd hashes
# them (name:$7$iterations$salt$hash), and the ACL. With certificates=1, devices have no password; devices lists their
# names.

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

# The rights of a user, from the lines of its topics; any share name is allowed.
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

function add(name, id, hash, lines,    part, password) {
    if (name in added) wrong = "mosquitto/acl and MQTT_DEVICE_NAMES have more than one user " name
    added[name] = 1
    if (hash != "") {
        split(hash, part, "$")
        password = ", \"iterations\": " part[3] ", \"salt\": \"" part[4] "\", \"password\": \"" part[5] "\""
    }
    clients = list(clients, "{\"username\": " quoted(name) (id == "" ? "" : ", \"clientid\": " quoted(id)) password \
        ", \"roles\": [{\"rolename\": " quoted(name) "}]}")
    roles = list(roles, "{\"rolename\": " quoted(name) ", \"acls\": [\n" rights(lines, name, id) "]}")
}

FILENAME == ARGV[1] { hashes[substr($0, 1, index($0, ":") - 1)] = substr($0, index($0, ":") + 1); next }
/^(#|$)/ { next }
/^user [^ ]+$/ { user = $2; next }
/^devices$/ { user = "any device"; next }
user != "" && /^device$/ { device[user] = 1; next }
user != "" && /^clients [^ ]/ { ids[user] = ids[user] substr($0, length("clients ")); next }
user != "" && /^topic (read|write|readwrite) [^ ]/ { topics[user] = topics[user] $0 "\n"; next }
{ wrong = "mosquitto/acl has a line that says nothing: " $0 }

END {
    for (user in hashes) {
        hash = certificates && (user in device) ? "" : hashes[user]
        count = split(ids[user], id, " ")
        add(user, id[1], hash, topics[user])
        for (number = 2; number <= count; number++)
            add(user substr(id[number], length(id[1]) + 1), id[number], hash, topics[user])
    }
    count = certificates ? split(devices, names, /[ ,]+/) : 0
    for (number = 1; number <= count; number++)
        if (names[number] != "") add(names[number], names[number], "", topics["any device"])
    if (wrong) {
        print wrong >"/dev/stderr"
        exit 2
    }
    print "{\"defaultACLAccess\": {\"publishClientSend\": false, \"publishClientReceive\": false, \"subscribe\": false, \"unsubscribe\": true},"
    print "\"clients\": [\n" clients "],\n\"roles\": [\n" roles "]}"
}
