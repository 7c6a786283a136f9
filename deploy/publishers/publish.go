// Publishes one event from Go, and says whether the broker has it. Needs github.com/rabbitmq/amqp091-go 1.5 or later.
//
//	REALTIME_AMQP_URL=amqp://… go run publish.go DIAGNOSIS_ID [EVENT_ID]
//
// Run again under the same EVENT_ID after an error: clients see the event once.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

type feedback struct {
	DiagnosisID   int64   `json:"diagnosis_id"`
	FeedbackID    int64   `json:"feedback_id"`
	Rating        int     `json:"rating"`
	Effectiveness float64 `json:"effectiveness"`
}

func publish(diagnosis int64, eventID string) error {
	body, err := json.Marshal(feedback{DiagnosisID: diagnosis, FeedbackID: 456, Rating: 4, Effectiveness: 0.75})
	if err != nil {
		return err
	}
	connection, err := amqp.Dial(os.Getenv("REALTIME_AMQP_URL"))
	if err != nil {
		return err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	if err := channel.Confirm(false); err != nil {
		return err
	}
	// Not a deferred confirmation: amqp091-go before 1.6 may miss one that comes at once, and waits for ever.
	confirmed := channel.NotifyPublish(make(chan amqp.Confirmation, 1))
	returned := channel.NotifyReturn(make(chan amqp.Return, 1))
	closing := channel.NotifyClose(make(chan *amqp.Error, 1))
	limit, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	now := time.Now()
	err = channel.PublishWithContext(
		limit, "diagnosis.feedback", fmt.Sprintf("diagnosis.%d", diagnosis), true, false,
		amqp.Publishing{
			MessageId:    eventID,
			ContentType:  "application/json",
			DeliveryMode: amqp.Persistent,
			Timestamp:    now,
			Headers:      amqp.Table{"timestamp_in_ms": now.UnixMilli()},
			Body:         body,
		})
	if err != nil {
		return err
	}
	select {
	case confirmation, open := <-confirmed:
		if !open { // no such exchange, no permission
			return fmt.Errorf("the channel was closed: %v", <-closing)
		}
		if !confirmation.Ack {
			return errors.New("the broker refused it")
		}
	case <-limit.Done():
		return errors.New("the broker did not confirm in time")
	}
	select {
	case <-returned: // comes before the confirm
		return errors.New("no queue took the event") // the service never ran on this broker
	default:
		return nil
	}
}

func main() {
	diagnosis, err := int64(0), errors.New("none")
	if len(os.Args) > 1 {
		diagnosis, err = strconv.ParseInt(os.Args[1], 10, 64)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the first argument is a diagnosis id")
		os.Exit(2)
	}
	random := make([]byte, 16)
	rand.Read(random)
	eventID := hex.EncodeToString(random)
	if len(os.Args) > 2 {
		eventID = os.Args[2]
	}
	if err := publish(diagnosis, eventID); err != nil {
		fmt.Fprintf(os.Stderr, "not published, try again as %s: %v\n", eventID, err)
		os.Exit(1)
	}
	fmt.Println(eventID)
}
