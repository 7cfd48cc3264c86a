// A broker made of the library mochi-mqtt, at its defaults but for one defect.
package main

import (
	"log"
	"os"
	"os/signal"
	"syscall"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// It answers a message that has user properties with 0x01, which a PUBACK cannot have (MQTT 5.0, 3.4.2.1): paho takes
// that for a protocol error, and connects anew for ever.
type corrected struct{ mqtt.HookBase }

func (corrected) ID() string { return "corrected" }

func (corrected) Provides(hook byte) bool { return hook == mqtt.OnPacketEncode }

func (corrected) OnPacketEncode(_ *mqtt.Client, packet packets.Packet) packets.Packet {
	if packet.FixedHeader.Type == packets.Puback && packet.ReasonCode == packets.CodeGrantedQos1.Code {
		packet.ReasonCode = packets.CodeSuccess.Code
	}
	return packet
}

func main() {
	port, user, password := os.Args[1], os.Args[2], os.Args[3]
	server := mqtt.New(nil)
	rules := auth.AuthRules{{Username: auth.RString(user), Password: auth.RString(password), Allow: true}}
	if err := server.AddHook(new(auth.Hook), &auth.Options{Ledger: &auth.Ledger{Auth: rules}}); err != nil {
		log.Fatal(err)
	}
	if err := server.AddHook(new(corrected), nil); err != nil {
		log.Fatal(err)
	}
	if err := server.AddListener(listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:" + port})); err != nil {
		log.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		log.Fatal(err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	server.Close()
}
